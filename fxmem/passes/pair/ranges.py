"""Between which numbers a value lies, and whether near zero its error has a bound.

Interval arithmetic over both graphs: of 1 + x² no code of x comes near zero, of 1 - x² many do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torch import fx

from fxmem.passes.graph import from_tangents, is_view, numel, op_name, tensor
from fxmem.passes.operators import CAST_NAMES
from fxmem.passes.pair.graphs import Pair

SMALL = 1e-2  # a larger constant keeps a denominator away from zero


@dataclass(frozen=True)
class Range:
    """The numbers between two.

    Attributes:
        relative: whether an error in what it is made of is one relative to it, as in exponentials.
    """

    low: float = -inf
    high: float = inf
    relative: bool = False

    @property
    def nears_zero(self) -> bool:
        """Whether a code may make zero of it."""
        return not self.relative and self.low < SMALL and self.high > -SMALL

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low, self.relative)

    def __add__(self, other: Range) -> Range:
        both = self.relative and other.relative and min(self.low, other.low) >= 0
        return Range(self.low + other.low, self.high + other.high, both)

    def __mul__(self, other: Range) -> Range:
        ends = [(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        corners = [a * b if a and b else 0.0 for a, b in ends]
        return Range(min(corners), max(corners), self.relative and other.relative)

    def __or__(self, other: Range) -> Range:
        both = self.relative and other.relative
        return Range(min(self.low, other.low), max(self.high, other.high), both)

    def within(self, low: float, high: float) -> Range:
        """Return what clamping leaves."""
        low, high = (min(max(end, low), high) for end in (self.low, self.high))
        return Range(low, high, self.relative)

    def inverse(self) -> Range:
        """Return the range of the reciprocals."""
        if self.low < 0 < self.high:
            return Range()
        ends = [1 / end if end else math.copysign(inf, self.low + self.high) for end in self._ends]
        return Range(min(ends), max(ends), self.relative)

    def power(self, exponent: Range) -> Range:
        """Return the range of whole powers, and of roots of what is positive."""
        n = exponent.low
        if n != exponent.high or n < 0 or (n % 1 and self.low < 0):
            return Range(-inf if self.low < 0 else 0.0, inf, self.relative)
        ends = [_to_the(n, end) for end in self._ends]
        crosses = n % 2 == 0 and self.low < 0 < self.high
        return Range(0.0 if crosses else min(ends), max(ends), self.relative)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.low, self.high


def _absolute(x: Range) -> Range:
    return x if x.low >= 0 else -x if x.high <= 0 else Range(0.0, max(-x.low, x.high))


def _product(node: fx.Node, a: Range, b: Range) -> Range:
    return a.power(Range(2, 2)) if node.args[0] is node.args[1] else a * b


def _averaged(node: fx.Node, x: Range, *_: Range) -> Range:
    return Range(x.low, x.high, x.relative and x.low >= 0)  # else terms may cancel


def _summed(node: fx.Node, x: Range, *_: Range) -> Range:
    before, after = numel(node.args[0]), numel(node)
    n = before / after if before and after else None
    return _averaged(node, x) * Range(n or 1, n or inf, relative=True)


def _full(node: fx.Node, *_: Range) -> Range:
    return _number(node.args[1])


def _number(value: float, is_factor: bool = False) -> Range:
    """A number; as a summand a small one keeps nothing away from zero."""
    value = float(value) if is_factor or abs(value) >= SMALL else 0.0
    return Range(value, value, relative=value >= 0)


def _to_the(n: float, base: float) -> float:
    try:
        return float(base) ** n
    except OverflowError:
        return -inf if base < 0 and n % 2 else inf


WAVE, ANGLE, PART = Range(-1, 1), Range(-math.pi, math.pi), Range(0, 1, relative=True)
SAME = {*CAST_NAMES, *(f"aten.{op}" for op in ("clone", "expand", "amax", "amin", "index"))}
FACTORS = ("aten.mul", "aten.div", "aten.pow")  # whose numbers are no summands
MODES = {"alpha", "rounding_mode"}  # keywords with which an operator is another one
# What an operator makes of the ranges of its arguments.
OPERATORS: dict[str, Callable[..., Range]] = {
    **dict.fromkeys(SAME, lambda node, x, *_: x),
    **dict.fromkeys(("aten.tanh", "aten.sin", "aten.cos", "aten.erf"), lambda node, x: WAVE),
    **dict.fromkeys(("aten.asin", "aten.acos", "aten.atan"), lambda node, x: ANGLE),
    **dict.fromkeys(("aten.maximum", "aten.minimum"), lambda node, x, y: x | y),
    "aten.sigmoid": lambda node, x: PART,
    "aten.exp": lambda node, x: Range(0, inf, relative=True),
    "aten.abs": lambda node, x: _absolute(x),
    "aten.relu": lambda node, x: x.within(0, inf),
    "aten.neg": lambda node, x: -x,
    "aten.sqrt": lambda node, x: x.within(0, inf).power(Range(0.5, 0.5)),
    "aten.pow": lambda node, x, y: x.power(y),
    "aten.hypot": lambda node, x, y: Range(0, inf),
    "aten.log1p": lambda node, x: Range(0 if x.low >= 0 else -inf, inf, x.relative),
    "aten.reciprocal": lambda node, x: x.inverse(),
    "aten.add": lambda node, x, y: x + y,
    "aten.sub": lambda node, x, y: x + -y,
    "aten.rsub": lambda node, x, y: y + -x,
    "aten.mul": _product,
    "aten.div": lambda node, x, y, *_: x * y.inverse(),
    "aten.clamp": lambda node, x, low=None, high=None: _clamped(x, low, high),
    "aten.clamp_min": lambda node, x, low: _clamped(x, low, None),
    "aten.clamp_max": lambda node, x, high: _clamped(x, None, high),
    "aten.where": lambda node, _, x, y: x | y,
    "aten.mean": _averaged,
    **dict.fromkeys(("aten.var", "aten.var_mean[0]"), lambda node, *_: Range(0, inf)),
    "aten.sum": _summed,
    "aten.full": _full,
    "aten.diagonal_scatter": lambda node, x, y, *_: x | y,
}


def _clamped(x: Range, low: Range | None, high: Range | None) -> Range:
    return x.within(low.low if low else -inf, high.high if high else inf)


def ranges(pair: Pair) -> dict[fx.Node, Range]:
    """Return the ranges of what the backward computes without gradients, as far as known.

    A kept value may be zero wherever it is: codes have one step a group.
    """
    forward: dict[fx.Node, Range] = {}
    for node in pair.forward.graph.nodes:
        _put(forward, node)
    own = {node.name: known for node, known in forward.items()}
    found: dict[fx.Node, Range] = {}
    tainted = from_tangents(pair.backward.graph)
    for node in pair.backward.graph.nodes:
        if node.op == "placeholder":
            kept = own.get(node.name, Range())
            found[node] = Range(min(kept.low, 0.0), max(kept.high, 0.0))
        elif node not in tainted:
            _put(found, node)
    return found


def _put(found: dict[fx.Node, Range], node: fx.Node) -> None:
    operator = OPERATORS.get(op_name(node)) if node.op == "call_function" else None
    if tensor(node) is None or (operator is None and not is_view(node)):
        return
    if is_view(node):
        found[node] = found.get(node.args[0], Range())
    elif node.kwargs.keys() & MODES:
        found[node] = Range()
    else:
        is_factor = op_name(node) in FACTORS
        found[node] = operator(node, *(_range(arg, found, is_factor) for arg in node.args))


def _range(arg: object, found: dict[fx.Node, Range], is_factor: bool) -> Range | None:
    if isinstance(arg, int | float):
        return _number(arg, is_factor)
    return None if arg is None else found.get(arg, Range()) if isinstance(arg, fx.Node) else Range()
