"""Places at which a value was found, by a sort, a maximum or a pool, in the bits they need: exact.

PyTorch keeps them in 64 bits, or in 8 where Inductor decomposes a pool; one of 64 takes 6.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import normalize_function

from fxmem.passes import bits as packing
from fxmem.passes.graph import emit, numel, op_name, tensor
from fxmem.passes.pair.eligible import why_unpacked
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.rewrite import Sizes, substitute
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

Size = int | torch.SymInt


class Places:
    """int[n] -> streams of uint8 that hold ceil(log2(places)) bits an element (passes/bits.py)."""

    name = "places"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match what an operator tells places by, of a number that is known when compiling."""
        return [self._match(pair, storage, policy) for storage in storages]

    def _match(self, pair: Pair, storage: Storage, policy: Policy) -> Match | Refusal | None:
        count = _count(storage.owner)
        if count is None:
            return None
        if why := why_unpacked(pair, storage, policy) or _why_uncounted(count):
            return Refusal(storage.record, self.name, why)
        bits = max(1, (count - 1).bit_length())
        if bits >= 8 * tensor(storage.owner).itemsize:
            return None
        packed = packing.packed_bytes(numel(storage.owner), bits)
        action = f"{bits} bit{'s' if bits > 1 else ''} an element"
        return Match(Site(storage.record, self.name, action, packed, "exact"), bits)

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Pack after the operator, unpack before the first use."""
        source, bits = storage.owner, match.recipe

        def pack(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
            streams = packing.pack(partial(emit, graph, like=source), x, bits)
            for stream in streams:
                stream._rename(f"{source.name}_bits")
            return streams

        def unpack(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
            emitted, dtype = partial(emit, graph, like=source), tensor(source).dtype
            return packing.unpack(emitted, kept, bits, sizes, strides, dtype)

        substitute(pair, source, storage.views, pack, unpack)


def _why_uncounted(count: Size) -> str | None:
    known = isinstance(count, int)
    return None if known else "how many places there are is not known when compiling"


def _count(node: fx.Node) -> Size | None:
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
