"""Couplings that read an operand twice: start + weight * (end - start), as momentum is written.

torch.lerp is one of them. With a tensor of weights it begins at the nearer end, and adds to that:
where(far, end, start) + where(far, weight - 1, weight) * (end - start).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten
from fxmem.passes.joint.reversible.bounds import ANYTHING, interval
from fxmem.passes.joint.reversible.steps import UNKNOWN, Of, Operand, Step

Parts = tuple[Operand, Operand, Operand]  # start, end and weight


def interpolations(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a sum, or an addcmul, is if it moves its state towards a side."""
    if found := _nearer(node):
        yield from _lerp(node, *found)
    elif node.target is not aten.addcmul.default and (parts := _sum(node)):
        yield from _steps(node, *parts)


def _sum(node: fx.Node) -> Parts | None:
    """start + w * (end - start), and start - w * (start - end)."""
    start, moved = node.args
    weight: Operand = node.kwargs.get("alpha", 1)
    if _is(moved, aten.mul.Tensor):
        difference, factor = moved.args
        if not _is(difference, aten.sub.Tensor):
            difference, factor = factor, difference
        if isinstance(factor, fx.Node) and weight != 1:
            return None
        moved, weight = difference, factor if weight == 1 else factor * weight
    ends = _ends(moved, start)
    if ends is None:
        return None
    towards = (ends[0] is start) == (node.target is aten.sub.Tensor)
    end = ends[1] if ends[0] is start else ends[0]
    if not towards and isinstance(weight, fx.Node):  # away from the end, by a tensor
        return None
    return start, end, weight if towards else -weight


def _nearer(node: fx.Node) -> tuple[fx.Node, Any, Any] | None:
    """The nearer end, and what is multiplied and added to it: in torch 2.11 by two operators."""
    if node.kwargs:
        return None
    if node.target is aten.addcmul.default:
        near, *product = node.args
    elif node.target is aten.add.Tensor:
        near, moved = node.args if _is(node.args[0], aten.where.self) else reversed(node.args)
        product = moved.args if _is(moved, aten.mul.Tensor) else ()
    else:
        return None
    return (near, *product) if _is(near, aten.where.self) and product else None


def _lerp(node: fx.Node, near: fx.Node, weight: Any, difference: Any) -> Iterator[Step]:
    far, end, start = near.args
    if _ends(difference, start) == (end, start):
        yield from _steps(node, start, end, weight, far)


def _ends(node: Any, start: Any) -> tuple[Any, Any] | None:
    """Return both operands of a difference, one of which is `start`."""
    if not _is(node, aten.sub.Tensor) or node.kwargs or not any(a is start for a in node.args):
        return None
    return node.args


def _steps(
    node: fx.Node, start: Any, end: Any, weight: Operand, far: fx.Node | None = None
) -> Iterator[Step]:
    """Either end may be the state. `far`: where the weight is one less than it says."""
    low, high = interval(weight)
    if far is not None:
        known = _is(far, aten.full.default)
        low, high = (low + far.args[1], high + far.args[1]) if known else ANYTHING
    if low == high:  # a number that torch 2.11 has made a tensor of
        weight, far = low, None
    for state, side, ends in ((start, end, (1 - high, 1 - low)), (end, start, (low, high))):
        if isinstance(state, fx.Node):
            yield _step(node, state, side, (weight, far, state is end), _least(*ends, weight))


def _step(
    node: fx.Node,
    state: fx.Node,
    side: Operand,
    weighted: tuple[Operand, fx.Node | None, bool],
    scale: float,
) -> Step:
    weight, far, is_end = weighted

    def parts(emit: Emit, of: Of) -> tuple[Operand, fx.Node]:
        """Emit by what the state is multiplied, and the side as it is added."""
        w = of(weight)
        if far is not None:
            w = emit(aten.where.self, of(far), emit(aten.add.Tensor, w, 1), w)
        rest = emit(aten.sub.Tensor, 1, w) if isinstance(w, fx.Node) else 1 - w
        own, other = (w, rest) if is_end else (rest, w)
        return own, emit(aten.mul.Tensor, of(side), other)

    def undo(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
        own, added = parts(emit, of)
        return emit(aten.div.Tensor, emit(aten.sub.Tensor, out, added), own)

    def redo(emit: Emit, value: fx.Node, of: Of) -> fx.Node:
        own, added = parts(emit, of)
        return emit(aten.add.Tensor, emit(aten.mul.Tensor, value, own), added)

    others = (side, weight) if far is None else (side, weight, far)
    return Step(node, state, others, undo, scale, redo)


def _least(low: float, high: float, weight: Operand) -> float:
    """Return the least magnitude between two bounds, which for a number are the same."""
    known = max(low, -high, 0.0)
    return max(known, UNKNOWN) if isinstance(weight, fx.Node) else known


def _is(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is target
