"""Couplings: operations that carry a state on and can be undone, each with how it is undone.

A coupling is a row of :data:`COUPLINGS`, or several in a row: s*exp(t) + F is a product and a sum.
Its inverse is theirs, in reverse. What it divides by is its scale: |scale| < 1 loses accuracy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten, tensor
from fxmem.passes.joint.reversible.bounds import most
from fxmem.passes.joint.reversible.interpolations import interpolations
from fxmem.passes.joint.reversible.reshaped import VIEWS
from fxmem.passes.joint.reversible.shrinking import shrinking
from fxmem.passes.joint.reversible.steps import UNKNOWN, Operand, Step
from fxmem.passes.joint.reversible.wrapped import masked, rounded
from fxmem.passes.operators import CAST


def steps(node: fx.Node) -> Iterator[Step]:
    """Yield the ways in which a node carries a state on, of one dtype and number of elements."""
    if node.target in COUPLINGS and tensor(node) is not None:
        yield from (step for step in COUPLINGS[node.target](node) if _carries(step))


def _carries(step: Step) -> bool:
    """Compare shapes as they are written, which adds no guards; integers are added, no more."""
    value, state = tensor(step.out), tensor(step.state)
    if state is None or step.state in step.sides or step.scale == 0 or value.is_complex():
        return False
    if value.dtype != state.dtype:
        return False
    if step.out.target in (*VIEWS, operator.getitem):
        return True
    added = step.out.target in (aten.add.Tensor, aten.sub.Tensor) and abs(alpha_of(step.out)) == 1
    whole = added and step.redo is None
    return str(value.shape) == str(state.shape) and (value.is_floating_point() or whole)


def alpha_of(node: fx.Node) -> Any:
    """Return what a sum multiplies its second term by."""
    return node.kwargs.get("alpha", 1)


def _sum(node: fx.Node) -> Iterator[Step]:
    """a + alpha * b, and a - alpha * b."""
    a, b = node.args
    minus, alpha = node.target is aten.sub.Tensor, alpha_of(node)
    if isinstance(alpha, fx.Node):  # a size that changes
        return

    def first(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        added = of(b) if alpha == 1 else emit(aten.mul.Tensor, of(b), alpha)
        return emit(aten.add.Tensor if minus else aten.sub.Tensor, out, added)

    def second(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        rest = (of(a), out) if minus else (out, of(a))
        found = emit(aten.sub.Tensor, *rest)
        if alpha == -1:  # of integers, too
            return emit(aten.neg.default, found)
        return found if alpha == 1 else emit(aten.div.Tensor, found, alpha)

    yield from interpolations(node)
    if isinstance(a, fx.Node):
        yield Step(node, a, (b,), first)
    if isinstance(b, fx.Node):
        yield Step(node, b, (a,), second, alpha)


def _within(node: Operand) -> Iterator[Step]:
    """Yield the ways in which a sum, and nothing else, carries one of its terms on."""
    if tensor(node) is not None and node.target in (aten.add.Tensor, aten.sub.Tensor):
        plain = (step for step in steps(node) if step.redo is None)
        yield from (step for step in plain if step.state in node.args)


def _sums(node: Operand) -> Iterator[Step]:
    """Yield the ways in which a sum carries on a term, or what it moves towards another."""
    yield from _within(node)
    if tensor(node) is not None and node.target in MOVES:
        yield from filter(_carries, interpolations(node))


def _product(node: fx.Node) -> Iterator[Step]:
    for state, scale in (node.args, node.args[::-1]):

        def undo(emit: Emit, out: fx.Node, of: Callable, scale: Operand = scale) -> fx.Node:
            return emit(aten.div.Tensor, out, of(scale))

        if isinstance(state, fx.Node):
            yield Step(node, state, (scale,), undo, scale)


def _quotient(node: fx.Node) -> Iterator[Step]:
    state, divisor = node.args
    largest = most(divisor)
    if largest == 0 or (isinstance(divisor, fx.Node) and tensor(divisor) is None):
        return

    def undo(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        return emit(aten.mul.Tensor, out, of(divisor))

    if isinstance(state, fx.Node):
        yield Step(node, state, (divisor,), undo, max(1 / largest, UNKNOWN))


def _negation(node: fx.Node) -> Iterator[Step]:
    yield Step(node, node.args[0], (), lambda emit, out, of: emit(aten.neg.default, out))


def _added(node: fx.Node, combined: Callable) -> Step:
    """a + value * combined(b, c)."""
    state, b, c = node.args
    value = node.kwargs.get("value", 1)

    def undo(emit: Emit, out: fx.Node, of: Callable) -> fx.Node:
        added = emit(combined, of(b), of(c))
        added = added if value == 1 else emit(aten.mul.Tensor, added, value)
        return emit(aten.sub.Tensor, out, added)

    return Step(node, state, (b, c), undo)


def _added_product(node: fx.Node) -> Iterator[Step]:
    yield from interpolations(node)
    yield _added(node, aten.mul.Tensor)
    added, *factors = node.args
    for state, scale in (factors, factors[::-1]) if not node.kwargs else ():

        def undo(emit: Emit, out: fx.Node, of: Callable, scale: fx.Node = scale) -> fx.Node:
            return emit(aten.div.Tensor, emit(aten.sub.Tensor, out, of(added)), of(scale))

        yield Step(node, state, (added, scale), undo, scale)


MOVES = (aten.add.Tensor, aten.sub.Tensor, aten.addcmul.default)
COUPLINGS: dict[Callable, Callable[[fx.Node], Iterator[Step]]] = {
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.neg.default: _negation,
    aten.addcmul.default: _added_product,
    aten.addcdiv.default: lambda node: iter([_added(node, aten.div.Tensor)]),
    aten.where.self: lambda node: masked(node, _within),
    CAST: lambda node: rounded(node, _sums),
    operator.getitem: shrinking,
    **VIEWS,
}
