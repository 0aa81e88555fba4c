"""What follows from a row: its slope, pieces, turning point, parity, and numpy callables.

Nothing here knows an activation by name.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import sympy as sp

from .primitives import BOUNDED, Decay, Held, NormalCdf, lower
from .printing import NUMPY, Printer, Program
from .table import Activation, x, y

Curve = Callable[[np.ndarray], np.ndarray]
QUICK_LIMITS = {sp.exp: sp.Integer(87), Decay: sp.Integer(87), NormalCdf: sp.Rational(21, 4)}
FAR = 30.0  # every smooth row is straight, or flat, beyond


def value(row: Activation) -> sp.Expr:
    """f(x) in its stable form."""
    return row.definition if row.stable is None else row.stable


@cache
def slope(row: Activation) -> sp.Expr:
    """f'(x) in a stable form; where two pieces meet, the derivative of the one that holds x."""
    return sp.diff(value(row), x) if row.slope is None else row.slope


@cache
def evaluated_slope(row: Activation) -> sp.Expr:
    """`slope` as it is evaluated: with x held where ∞ · 0 would come out as NaN."""
    far = np.array([-np.inf, np.finfo(np.float32).min, np.finfo(np.float32).max, np.inf])
    if not np.isnan(curve(slope(row), row, dtype=np.float32)(far)).any():
        return slope(row)
    held = slope(row).xreplace({x: Held(x)})
    # What is bounded needs no holding: so f and f' share it.
    shared = held.replace(
        lambda node: isinstance(node, BOUNDED) or node.is_Relational,
        lambda node: node.xreplace({Held(x): x}),
    )
    return held if np.isnan(curve(shared, row, dtype=np.float32)(far)).any() else shared


@cache
def reach(row: Activation) -> sp.Expr | None:
    """How large |x| may be for the quick evaluation of f and f'; None where there is none.

    Within it arguments of functions stay within `QUICK_LIMITS`. An expression in the parameters.
    """
    both = [lower(expr).xreplace({Held(x): x}) for expr in (value(row), evaluated_slope(row))]
    limits = {
        _reach(node.args[0], limit)
        for function, limit in QUICK_LIMITS.items()
        for expr in both
        for node in expr.atoms(function)
        if node.has(x)
    }
    if None in limits or (len(limits) > 1 and not all(limit.is_number for limit in limits)):
        return None
    return min(limits, default=None)


def _reach(argument: sp.Expr, limit: sp.Expr) -> sp.Expr | None:
    """Where |argument|, which grows with |x|, is `limit`; None if solving for it were wanted."""
    rate = sp.diff(argument, x)
    if not rate.has(x) and argument.subs(x, 0) == 0:
        return limit / sp.Abs(rate)
    if argument.free_symbols != {x}:
        return None
    size = sp.lambdify(x, sp.Abs(argument))
    low, high = 0.0, float(limit)
    for _ in range(60):
        middle = (low + high) / 2
        beyond = max(size(middle), size(-middle)) > limit
        low, high = (low, middle) if beyond else (middle, high)
    return sp.Float(low, 8)


def curve(
    expr: sp.Expr,
    row: Activation,
    parameters: Sequence[float] | None = None,
    dtype: type[np.floating] = np.float64,
    variables: tuple[sp.Symbol, ...] = (x,),
) -> Callable[..., np.ndarray]:
    """An expression of `row` as a numpy function, evaluated in `dtype` as C++ evaluates it.

    Variables after the first are booleans.
    """
    program = _numpy_program(expr)
    lines = [f"    {name} = {text}" for name, text in program.steps]
    head = f"def evaluate({', '.join(map(str, variables))}):"
    values = row.defaults if parameters is None else parameters
    names = dict(zip((name for name, _ in row.parameters), map(dtype, values), strict=True))
    scope = {**NUMPY, **names, "R": dtype}
    exec("\n".join([head, *lines, f"    return {program.result}"]), scope)
    return _in_dtype(scope["evaluate"], dtype)


@cache
def _numpy_program(expr: sp.Expr) -> Program:
    return Printer(lambda digits: f"R({digits})").program(expr)


def _in_dtype(function: Callable[..., np.ndarray], dtype: type) -> Callable[..., np.ndarray]:
    """Give the result dtype and shape, quietly: selects evaluate the side that is not taken too."""

    def evaluate(points: np.ndarray, *bits: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype)
        with np.errstate(all="ignore"):
            result = np.asarray(function(points, *bits), dtype)
        return np.broadcast_to(result, points.shape).copy()

    return evaluate


def value_curve(row: Activation, parameters: Sequence[float] | None = None) -> Curve:
    """f as a float64 numpy function."""
    return curve(value(row), row, parameters)


def slope_curve(row: Activation, parameters: Sequence[float] | None = None) -> Curve:
    """f' as a float64 numpy function."""
    return curve(evaluated_slope(row), row, parameters)


@cache
def step_slopes(row: Activation) -> tuple[sp.Expr, ...]:
    """The distinct slopes of a piecewise linear row, in the order of their codes; else ()."""
    pieces = getattr(slope(row), "args", ()) if slope(row).is_Piecewise else ()
    distinct = {piece for piece, _ in pieces}
    if not pieces or any(piece.has(x) for piece in distinct):
        return ()
    return tuple(sorted(distinct, key=lambda piece: float(piece.subs(_defaults(row)))))


def step_levels(row: Activation, parameters: Sequence[float] | None = None) -> tuple[float, ...]:
    """`step_slopes` with parameters put in: what the codes of a piecewise linear row mean."""
    values = row.defaults if parameters is None else parameters
    known = dict(zip(row.symbols, values, strict=True))
    return tuple(float(piece.subs(known)) for piece in step_slopes(row))


def step_code(row: Activation) -> sp.Expr:
    """Which of `step_slopes` x has."""
    codes = {piece: sp.Integer(code) for code, piece in enumerate(step_slopes(row))}
    return sp.Piecewise(*((codes[piece], where) for piece, where in slope(row).args))


def step_slope_from_output(row: Activation) -> sp.Expr:
    """A piecewise linear row's slope from y: f grows, so `x <= b` becomes `y <= f(b)`."""
    relations = slope(row).atoms(sp.core.relational.Relational)
    swaps = {relation: _in_output(row, relation) for relation in relations}
    pieces = [(piece, where.subs(swaps)) for piece, where in slope(row).args]
    return sp.Piecewise(*pieces)


def _in_output(row: Activation, relation: sp.Rel) -> sp.Rel:
    (border,) = sp.solve(relation.lhs - relation.rhs, x)
    relation = relation if relation.lhs.has(x) else relation.reversed
    grows = sp.diff(relation.lhs, x) > 0
    relation = relation if grows else relation.reversedsign
    return relation.func(y, _at(row, border))


def _at(row: Activation, border: sp.Expr) -> sp.Expr:
    """f(border), from the piece that holds it for the default parameters."""
    known = _defaults(row)
    for piece, where in value(row).args:
        if where.subs(x, border).subs(known) == sp.true:
            return piece.subs(x, border)
    raise AssertionError(f"{row.name}: no piece holds {border}")


def _defaults(row: Activation) -> dict[sp.Symbol, float]:
    return dict(zip(row.symbols, map(sp.nsimplify, row.defaults), strict=True))


@cache
def turning_points(row: Activation) -> tuple[float, ...]:
    """Where f turns from falling to rising or back, for the default parameters."""
    points = np.linspace(-FAR, FAR, 6000)  # an even number: kinks and zeros at integers lie between
    rising = slope_curve(row)(points)
    points, rising = points[rising != 0], np.sign(rising[rising != 0])
    (turns,) = np.nonzero(np.diff(rising))
    return tuple(_bisect(slope_curve(row), points[i], points[i + 1]) for i in turns)


def _bisect(function: Curve, low: float, high: float) -> float:
    below = np.sign(function(low))
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if np.sign(function(middle)) == below else (low, middle)
    return float(high)


@cache
def is_even(row: Activation, parameters: tuple[float, ...] | None = None) -> bool:
    """Whether f'(-x) = f'(x), so that the code of |x| serves."""
    points = np.linspace(0.01, FAR, 997)
    function = slope_curve(row, parameters)
    return bool(np.allclose(function(points), function(-points), rtol=1e-12, atol=1e-15))


def kinks(row: Activation, parameters: Sequence[float] | None = None) -> tuple[float, ...]:
    """Where pieces of the slope meet."""
    values = row.defaults if parameters is None else parameters
    known = dict(zip(row.symbols, values, strict=True))
    relations = slope(row).atoms(sp.core.relational.Relational)
    roots = (root for r in relations for root in sp.solve((r.lhs - r.rhs).subs(known), x))
    return tuple(sorted({float(root) for root in roots}))
