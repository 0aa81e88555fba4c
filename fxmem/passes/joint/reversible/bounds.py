"""How small the scale of a coupling can become, as far as its operators tell: intervals.

exp(tanh(t)) is at least 1/e for every t; exp(t) and sigmoid(t) may be as small as they like.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from torch import fx

from fxmem.passes.graph import aten, is_view
from fxmem.passes.joint.reversible.steps import Operand
from fxmem.passes.operators import CAST

Interval = tuple[float, float]
ANYTHING = (-math.inf, math.inf)
# Operators in one expression for a scale; deeper ones are not looked at.
DEEPEST = 16


def least(scale: Operand) -> float:
    """Return a lower bound of |scale|, 0 where none is known."""
    low, high = interval(scale)
    return max(low, -high, 0.0)


def most(divisor: Operand) -> float:
    """Return an upper bound of |divisor|, infinity where none is known."""
    low, high = interval(divisor)
    return max(-low, high)


def interval(value: Operand, depth: int = 0) -> Interval:
    """Return what a number is, or what an operator's values lie between."""
    if not isinstance(value, fx.Node):
        return (float(value), float(value)) if isinstance(value, int | float) else ANYTHING
    if depth > DEEPEST:
        return ANYTHING
    if is_view(value) or value.target in UNCHANGED:
        return interval(value.args[0], depth + 1) if _has_one_source(value) else ANYTHING
    if value.target is aten.full.default:
        return interval(value.args[1])
    if value.target in RANGES:
        return RANGES[value.target]
    if value.target is aten.where.self:
        return _either(*value.args, depth)
    if value.target not in OPERATORS:
        return ANYTHING
    return _image(value, [interval(argument, depth + 1) for argument in value.args])


def _has_one_source(node: fx.Node) -> bool:
    return len(node.all_input_nodes) == 1 and isinstance(node.args[0], fx.Node)


def _either(condition: fx.Node, first: Operand, second: Operand, depth: int) -> Interval:
    """What is chosen where it exceeds a number does, as softplus chooses its argument."""
    (low, high), other = interval(first, depth + 1), interval(second, depth + 1)
    if condition.target is aten.gt.Scalar and condition.args[0] is first:
        low = max(low, condition.args[1])
    return min(low, other[0]), max(high, other[1])


def _image(node: fx.Node, arguments: list[Interval]) -> Interval:
    """Apply an operator that is monotone in each argument to the corners of their intervals."""
    function = OPERATORS[node.target]
    if alpha := node.kwargs.get("alpha"):
        arguments[1] = _corners(operator.mul, [interval(alpha), arguments[1]])
    return _corners(function, arguments)


def _corners(function: Callable[..., float], arguments: list[Interval]) -> Interval:
    points: list[list[float]] = [[]]
    for ends in arguments:
        points = [[*point, end] for point in points for end in ends]
    found = [function(*point) for point in points]
    # Infinity less infinity, or times zero: nothing is known.
    return ANYTHING if any(map(math.isnan, found)) else (min(found), max(found))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


UNCHANGED = {aten.clone.default, aten.alias.default, CAST}
RANGES = {
    **{aten.cos.default: (-1.0, 1.0), aten.sin.default: (-1.0, 1.0)},
    **{aten.rsqrt.default: (0.0, math.inf), aten._softmax.default: (0.0, 1.0)},
}
OPERATORS: dict[Callable, Callable[..., float]] = {
    aten.exp.default: _exp,
    aten.exp2.default: lambda x: _exp(x * math.log(2)),
    aten.log1p.default: lambda x: math.log1p(x) if x > -1 else -math.inf,
    aten.tanh.default: math.tanh,
    aten.erf.default: math.erf,
    aten.atan.default: math.atan,
    aten.sigmoid.default: lambda x: 1 / (1 + _exp(-x)),
    aten.relu.default: lambda x: max(x, 0.0),
    aten.neg.default: lambda x: -x,
    aten.add.Tensor: lambda x, y: x + y,
    aten.sub.Tensor: lambda x, y: x - y,
    aten.mul.Tensor: lambda x, y: x * y,
    aten.clamp_min.default: max,
    aten.clamp_max.default: min,
    aten.maximum.default: max,
    aten.minimum.default: min,
}
