"""Among how many places a value was found, by a sort, a maximum or a pool.

PyTorch keeps places in 64 bits, or in 8 where Inductor decomposes a pool; one of 64 takes 6.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import normalize_function

from fxmem.passes.graph import op_name, tensor

Size = int | torch.SymInt


def places(node: fx.Node) -> Size | None:
    """Return among how many places a node's elements tell one, None where they tell none."""
    second = node.target is operator.getitem and node.args[1] == 1
    op = node.args[0] if second else node
    count = (SECOND if second else ONLY).get(op_name(op))
    if count is None or not isinstance(op.target, torch._ops.OpOverload):
        return None
    given = normalize_function(op.target, op.args, op.kwargs, normalize_to_only_use_kwargs=True)
    return None if given is None else count(given.kwargs)


def _along(given: Mapping[str, Any]) -> Size:
    """Return the size of the dimension that was searched, of all of them where none was named."""
    shape, dim = tensor(given["input"]).shape, given["dim"]
    return math.prod(shape) if dim is None or not shape else shape[dim]


def _plane(dims: int) -> Callable[[Mapping[str, Any]], Size]:
    return lambda given: math.prod(tensor(given["input"]).shape[-dims:])


def _between(name: str) -> Callable[[Mapping[str, Any]], Size]:
    return lambda given: tensor(given[name]).shape[-1] + 1


# By the operator whose result, or second result, holds places.
ONLY: dict[str, Callable[[Mapping[str, Any]], Size]] = {
    **dict.fromkeys(("aten.argmax", "aten.argmin", "aten.argsort"), _along),
    "aten.searchsorted": _between("sorted_sequence"),
    "aten.bucketize": _between("boundaries"),
}
SEARCHES = "sort topk max min cummax cummin kthvalue mode median nanmedian"
SECOND: dict[str, Callable[[Mapping[str, Any]], Size]] = {
    **{f"aten.{op}": _along for op in SEARCHES.split()},
    **{
        f"aten.{kind}_max_pool{n}d": _plane(n)
        for kind in ("adaptive", "fractional")
        for n in (2, 3)
    },
    **{f"aten.max_pool{n}d_with_indices": _plane(n) for n in (2, 3)},
    "aten._embedding_bag": lambda given: tensor(given["offsets"]).shape[0],
    "prims._low_memory_max_pool_with_offsets": lambda given: math.prod(given["kernel_size"]),
}
