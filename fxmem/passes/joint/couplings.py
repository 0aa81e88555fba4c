"""Couplings: operations that carry a state on and can be undone, each with how it is undone.

A coupling is a row of :data:`COUPLINGS`, or several in a row: s*exp(t) + F is a product and a sum.
Its inverse is theirs, in reverse. What it divides by is its scale: |scale| < 1 loses accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxmem.passes.graph import aten, tensor

Emit = Callable[..., fx.Node]
Operand = fx.Node | float
# Computes the state before from the one after: how to emit a node, that value, and what stands for
# a node of the forward in the backward.
Undo = Callable[[Emit, fx.Node, Callable[[Operand], Operand]], fx.Node]


@dataclass(frozen=True)
class Step:
    """`out` is computed from `state` and `others`, so that `state` follows from `out` and them."""

    out: fx.Node
    state: fx.Node
    others: tuple[Operand, ...]
    undo: Undo = field(compare=False)
    scale: Operand = 1.0

    @property
    def sides(self) -> list[fx.Node]:
        """What the state is combined with, numbers left out."""
        return [other for other in self.others if isinstance(other, fx.Node)]


def steps(node: fx.Node) -> Iterator[Step]:
    """Yield the ways in which a node carries a state on, shape and dtype being the same."""
    if node.target in COUPLINGS and tensor(node) is not None:
        yield from (step for step in COUPLINGS[node.target](node) if _carries(step))


def _carries(step: Step) -> bool:
    """Compare shapes as they are written, which adds no guards; integers are added, no more."""
    value, state = tensor(step.out), tensor(step.state)
    if state is None or step.state in step.sides or step.scale == 0:
        return False
    if value.dtype != state.dtype or str(value.shape) != str(state.shape):
        return False
    added = step.out.target in (aten.add.Tensor, aten.sub.Tensor) and abs(_alpha(step.out)) == 1
    return value.is_floating_point() or (added and not value.is_complex())


def _alpha(node: fx.Node) -> Any:
    return node.kwargs.get("alpha", 1)


def _sum(node: fx.Node) -> Iterator[Step]:
    """a + alpha * b, and a - alpha * b."""
    a, b = node.args
    minus, alpha = node.target is aten.sub.Tensor, _alpha(node)

    def first(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        added = of(b) if alpha == 1 else emit(aten.mul.Tensor, of(b), alpha)
        return emit(aten.add.Tensor if minus else aten.sub.Tensor, out, added)

    def second(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        rest = (of(a), out) if minus else (out, of(a))
        found = emit(aten.sub.Tensor, *rest)
        return found if alpha == 1 else emit(aten.div.Tensor, found, alpha)

    yield from _lerp(node)
    if isinstance(a, fx.Node):
        yield Step(node, a, (b,), first)
    if isinstance(b, fx.Node):
        yield Step(node, b, (a,), second, alpha)


def _lerp(node: fx.Node) -> Iterator[Step]:
    """a + w * (b - a), which reads a twice, as torch.lerp and momentum are written too."""
    start, moved = node.args
    weight = _alpha(node) * (-1 if node.target is aten.sub.Tensor else 1)
    if _is(moved, aten.mul.Tensor) and isinstance(moved.args[1], float):
        moved, weight = moved.args[0], weight * moved.args[1]
    if not _is(moved, aten.sub.Tensor) or moved.kwargs:
        return
    if moved.args[0] is start:  # a - w * (a - b)
        moved, weight = moved.args[::-1], -weight
    else:
        moved = moved.args
    end = moved[0]

    def undo(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        rest = emit(aten.sub.Tensor, out, emit(aten.mul.Tensor, of(end), weight))
        return emit(aten.div.Tensor, rest, 1 - weight)

    if moved[1] is start and isinstance(start, fx.Node) and isinstance(weight, int | float):
        yield Step(node, start, (end,), undo, 1 - weight)


def _is(node: Any, target: Callable) -> bool:
    return isinstance(node, fx.Node) and node.target is target


def _product(node: fx.Node) -> Iterator[Step]:
    for state, scale in (node.args, node.args[::-1]):

        def undo(emit: Emit, out: fx.Node, of: Callable, scale: Operand = scale) -> fx.Node:
            return emit(aten.div.Tensor, out, of(scale))

        if isinstance(state, fx.Node):
            yield Step(node, state, (scale,), undo, scale)


def _quotient(node: fx.Node) -> Iterator[Step]:
    state, divisor = node.args
    if isinstance(divisor, int | float) and divisor != 0:
        yield Step(
            node, state, (), lambda emit, out, of: emit(aten.mul.Tensor, out, divisor), 1 / divisor
        )


def _negation(node: fx.Node) -> Iterator[Step]:
    yield Step(node, node.args[0], (), lambda emit, out, of: emit(aten.neg.default, out))


def _added_product(node: fx.Node) -> Iterator[Step]:
    """a + value * b * c."""
    state, b, c = node.args
    value = node.kwargs.get("value", 1)

    def undo(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        added = emit(aten.mul.Tensor, of(b), of(c))
        added = added if value == 1 else emit(aten.mul.Tensor, added, value)
        return emit(aten.sub.Tensor, out, added)

    yield Step(node, state, (b, c), undo)


COUPLINGS: dict[Callable, Callable[[fx.Node], Iterator[Step]]] = {
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.neg.default: _negation,
    aten.addcmul.default: _added_product,
}
