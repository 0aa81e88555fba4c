"""Sums in other words: in a wider dtype and rounded, or only where a mask says.

(a.double() + f.double()).to(a.dtype), and where(mask, a + f, a). A sum's derivative reads nothing
of its state, so that the sum and the wider state within these are in nobody's way. Torch 2.11 takes
a half-precision lerp in float32, and rounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import fx

from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten, tensor
from fxmem.passes.joint.reversible.steps import Of, Step
from fxmem.passes.operators import CAST

# torch promotes no float of 8 bits or less to another dtype: it raises.
FLOATS = {torch.bfloat16, torch.float16, torch.float32, torch.float64}
Sums = Callable[[fx.Node], Iterator[Step]]  # the ways in which a sum carries one of its terms on


def rounded(node: fx.Node, sums: Sums) -> Iterator[Step]:
    """Yield the steps that a cast is if it rounds a sum with a state that was cast for it."""
    sum_, dtype = node.args
    wide = tensor(sum_).dtype
    if not _holds(wide, dtype):
        return
    for step in sums(sum_):
        if step.state.target is CAST and _is_of(step.state.args[0], dtype):
            yield _rounded(node, step, wide, dtype)


def _rounded(node: fx.Node, step: Step, wide: torch.dtype, dtype: torch.dtype) -> Step:
    def undo(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
        return emit(CAST, step.undo(emit, emit(CAST, out, wide), of), dtype)

    def redo(emit: Emit, value: fx.Node, of: Of) -> fx.Node:
        return _cast(emit, step.again(emit, _cast(emit, value, wide), of), tensor(value).dtype)

    return Step(node, step.state.args[0], step.others, undo, step.scale, redo)


def _cast(emit: Emit, value: fx.Node, dtype: torch.dtype) -> fx.Node:
    return value if tensor(value).dtype == dtype else emit(CAST, value, dtype)


def _holds(wide: torch.dtype, dtype: torch.dtype) -> bool:
    both = {wide, dtype} <= FLOATS
    return both and wide != dtype and torch.promote_types(wide, dtype) == wide


def _is_of(node: fx.Node, dtype: torch.dtype) -> bool:
    return tensor(node).dtype == dtype


def masked(node: fx.Node, sums: Sums) -> Iterator[Step]:
    """Yield the steps that a choice is between a sum and the state that it is made of."""
    mask, *arms = node.args
    for i, sum_ in enumerate(arms):
        for step in sums(sum_):
            if step.state is arms[1 - i]:
                yield _masked(node, step, mask, added=i)


def _masked(node: fx.Node, step: Step, mask: fx.Node, added: int) -> Step:
    def chosen(emit: Emit, one: fx.Node, other: fx.Node, of: Of) -> fx.Node:
        arms = (one, other) if added == 0 else (other, one)
        return emit(aten.where.self, of(mask), *arms)

    def undo(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
        return chosen(emit, step.undo(emit, out, of), out, of)

    def redo(emit: Emit, value: fx.Node, of: Of) -> fx.Node:
        return chosen(emit, step.again(emit, value, of), value, of)

    return Step(node, step.state, (mask, *step.others), undo, step.scale, redo)
