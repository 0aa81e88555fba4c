"""What differs between torch 2.11 and later, and the private names of torch used all over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch._functorch import partitioners
from torch._functorch._aot_autograd import descriptors
from torch._functorch.partitioners import min_cut_rematerialization_partition

__all__ = [
    "eager_decompositions",
    "hint",
    "may_recompute",
    "min_cut_rematerialization_partition",
    "saved_descriptors",
]

_Saved = descriptors.SavedForBackwardsAOTOutput
_SavedNoCheck = getattr(descriptors, "SavedForBackwardsNoVcCheckAOTOutput", _Saved)


def eager_decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return Inductor's decompositions, for graphs that are run as they are.

    Of all of them torch's `eye` alone (2.13) makes what eager mode cannot run: ranges in uint16.
    """
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    return {**select_decomp_table(), aten.eye.default: _eye, aten.eye.m: _eye}


def _eye(
    n: int | torch.SymInt,
    m: int | torch.SymInt | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor:
    rows, columns = (torch.arange(size, device=device) for size in (n, n if m is None else m))
    return (rows.unsqueeze(-1) == columns).to(dtype or torch.get_default_dtype())


@contextmanager
def may_recompute(operators: Collection[torch._ops.OpOverloadPacket]) -> Iterator[None]:
    """Let min-cut recompute these operators as well: it has a list of its own, and no option."""
    if not operators:
        yield
        return
    default = partitioners.get_default_op_list

    def more() -> Any:
        ops = default()
        ops.recomputable_ops.update(operators)
        return ops

    with mock.patch.object(partitioners, default.__name__, more):
        yield


def saved_descriptors(saved: list[fx.Node]) -> list[Any]:
    """Return AOTAutograd's descriptions of the forward outputs that are kept for the backward."""
    kinds = (_SavedNoCheck if unchecked(node) else _Saved for node in saved)
    return [kind(i) for i, kind in enumerate(kinds)]


def unchecked(node: fx.Node) -> bool:
    """Whether autograd keeps this value on the context, without its version counter."""
    return bool(node.meta.get("saved_tensor_with_no_vc_check", False))


def outermost_modules(dynamo: fx.GraphModule) -> set[str]:
    """Return how Dynamo spells those modules whose parameters a graph reads and which no other has.

    A graph that was traced otherwise has none.
    """
    found = set()
    for node in dynamo.graph.find_nodes(op="placeholder"):
        source = getattr(node, "_dynamo_source", None)
        source = source or getattr(node.meta.get("grapharg"), "source", None)
        modules = [s for s in _bases(source) if "NNModuleSource" in type(s).__name__]
        found |= {name() if callable(name) else name for name in [s.name for s in modules[-1:]]}
    return found


def _bases(source: Any) -> Iterator[Any]:
    while source is not None:
        yield source
        source = getattr(source, "base", None)


def hint(size: int | torch.SymInt) -> int | None:
    """Return the number that a size was traced with, None where it has none; adds no guard."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else None
