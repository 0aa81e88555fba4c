"""The slope of an activation from its output: D(y) = f'(f⁻¹(y)) on each monotone branch.

Some rows have it in closed form, piecewise linear ones from their pieces; the others are fitted,
see fits.py. Where f is not monotone a bit says on which side of its minimum x lay.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import sympy as sp

from . import fits
from .calculus import (
    FAR,
    curve,
    kinks,
    slope_curve,
    step_slope_from_output,
    step_slopes,
    turning_points,
    value_curve,
)
from .fits import Fit, NoFit
from .primitives import Offset, Ratio, Root
from .rational import Rational
from .table import TABLE, Activation, x, y

BRANCH = sp.Symbol("branch")


def fit_now(row: Activation) -> Fit | None:
    """Fit D anew; None for a row that needs no fit or has none."""
    if row.from_output or step_slopes(row):
        return None
    try:
        return fits.fit(row)
    except NoFit:
        return None


@cache
def fitted(row: Activation) -> Fit | None:
    """The fit of D: shipped, else made now; None for a row that needs none or has none."""
    return fits.load(row) or fit_now(row)


def branches(row: Activation) -> int:
    """Monotone branches: 2 where a branch bit is wanted, 0 where y does not give the slope."""
    if row.from_output:
        return len(row.from_output)
    if step_slopes(row):
        return 1
    found = fitted(row)
    return 0 if found is None else 1 + (found.tail is not None)


def branch_at(row: Activation) -> sp.Basic:
    """The branch bit as a condition on x: right of the turning point."""
    (turn,) = turning_points(row)
    return x > sp.Float(turn, 20)


@cache
def from_output(row: Activation) -> sp.Expr:
    """D as an expression in y and, with two branches, the symbol `branch`."""
    if len(row.from_output) == 2:
        left, right = row.from_output
        return sp.Piecewise((right, BRANCH), (left, True))
    if row.from_output:
        return row.from_output[0]
    if step_slopes(row):
        return step_slope_from_output(row)
    found = fitted(row)
    if found is None:
        raise NoFit(f"{row.name}'s slope cannot be had from its output")
    return _flat(found) if found.tail is None else _turning(found)


def _flat(found: Fit) -> sp.Expr:
    """D is even, with s the cube root of |y|."""
    size = sp.Abs(y)
    s = sp.cbrt(size)
    near, far = found.near.terms(s), _plus_one(*found.far.terms(s))
    return _quotient((1, 1, size >= found.end), (*far, size > found.cut), (*near, True))


def _turning(found: Fit) -> sp.Expr:
    """One root and one division serve all pieces; NaN goes the way of `near`."""
    height = Offset(y, sp.Float(found.lowest, 20))
    height = sp.Piecewise((0, height < 0), (height, True))
    in_tail = y > sp.Float(found.start, 20)
    root = Root(sp.Piecewise((height, BRANCH), (sp.Abs(y), in_tail), (height, True)))
    s = sp.Piecewise((root, BRANCH | in_tail), (-root, True))
    near, far = found.near.terms(s), _plus_one(*found.far.terms(s))
    over, under = found.tail.terms(s)
    return _quotient(
        (1, 1, BRANCH & (y >= found.end)),
        (*far, BRANCH & (y > found.cut)),
        (*near, BRANCH),
        (0, 1, y >= 0),
        (y * over, under, in_tail),
        (*near, True),
    )


def _plus_one(over: sp.Expr, under: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    return under + over, under


def _quotient(*cases: tuple) -> sp.Expr:
    over = sp.Piecewise(*((over, where) for over, _, where in cases))
    return Ratio(over, sp.Piecewise(*((under, where) for _, under, where in cases)))


def output_curve(
    row: Activation,
    parameters: Sequence[float] | None = None,
    dtype: type[np.floating] = np.float64,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """D as a numpy function of y and the branch bits, evaluated in `dtype` as C++ evaluates it."""
    return curve(from_output(row), row, parameters, dtype, (y, BRANCH))


def output_error_bound(activation: Activation | str, eps: float) -> float:
    """The largest error of the slope from an output that is within one unit in the last place.

        `eps` is the machine epsilon of the output's dtype. The error is that of f'(x), relative to
        max(1, |f'(x)|), for the default parameters; smaller products than |y| eps, which underflow
    XX at a minimum of f, where y has lost x; about eps away
        from it. The arithmetic is taken for float's. Raises NoFit where y does not give the slope.
    """
    row = TABLE[activation] if isinstance(activation, str) else activation
    points, right = _probes(row, eps)
    f, slopes, recover = value_curve(row)(points), slope_curve(row)(points), output_curve(row)
    off = np.where(_rounded(f, eps) == f, 0.0, eps * np.abs(f))  # what is representable comes exact
    errors = np.abs(np.array([recover(f - off, right), recover(f + off, right)]) - slopes)
    errors /= np.maximum(np.abs(slopes), 1)
    for level in value_curve(row)(np.array(kinks(row))):
        errors[:, np.abs(f - level) <= eps * np.abs(level)] = 0.0
    parts = [part.condition for part in _parts(fitted(row))]
    return float(errors.max() + max([4.0, *parts]) * np.finfo(np.float32).eps)


def _probes(row: Activation, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Points all over and ever closer to the turning point, and the branch each is on."""
    turn = (*turning_points(row), 0.0)[0]
    away = np.geomspace(1e-9, FAR, 20_000)
    points = _rounded(np.concatenate([turn - away[::-1], turn + away]), eps)
    return points, points > turn


def _rounded(numbers: np.ndarray, eps: float) -> np.ndarray:
    """To the nearest floating-point number of that precision, of any exponent."""
    fraction, exponent = np.frexp(numbers)
    return np.ldexp(np.round(fraction * 2 / eps) * eps / 2, exponent)


def _parts(found: Fit | None) -> list[Rational]:
    return [part for part in (found.near, found.far, found.tail) if part] if found else []
