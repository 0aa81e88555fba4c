"""Fits of D(y) = f'(f⁻¹(y)) for activations that have it in no closed form.

At a minimum of f, D goes like the square root of y - min f; where an odd f is flat, like the cube
root of y. In that root s (negative left of the minimum) D is analytic, and two rational functions
serve up to where it is 1. Left of the minimum y runs back to 0; there D / y is fitted as a function
of sqrt(-y).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from . import rational
from .calculus import FAR, is_even, slope_curve, turning_points, value_curve
from .rational import Rational
from .table import TABLE, Activation

SHIPPED = Path(__file__).with_name("inverses.npz")
PARTS = ("near", "far", "tail")
DEGREES, TAIL_DEGREES = (6, 7), (4, 5)
REACHES = [FAR * 2**k for k in range(5)]
CUTS = (0.3, 0.35, 0.4, 0.45, 0.5)
NODES = 500
FLAT = 1e-8  # where the slope is this near to 1 it is 1
GOOD = 5e-8  # the largest error of a fit


class NoFit(ValueError):
    """This activation's slope cannot be had from its output by such a fit."""


@dataclass(frozen=True)
class Fit:
    """D(y) in pieces; `lowest` is min f, and `start`, `cut` and `end` are values of y.

    `tail` serves left of the minimum above `start`, `near` around the minimum below `cut`, `far`
    from there to `end`; beyond, D is 1. `far` fits D - 1, so that no digits are lost on the 1.
    Without a minimum there is no tail and s is a cube root.
    """

    lowest: float
    start: float
    cut: float
    end: float
    near: Rational
    far: Rational
    tail: Rational | None


class Curves:
    """f and f' of a row, and the root s in which D is analytic."""

    def __init__(self, row: Activation) -> None:
        self.f, self.slope = value_curve(row), slope_curve(row)
        turns = turning_points(row)
        flat = is_even(row) and self.slope(0.0) == 0
        if row.parameters or len(turns) > 1 or not (turns or flat):
            raise NoFit(f"{row.name} has no single minimum and is not flat at 0")
        self.turns = bool(turns)
        self.origin = turns[0] if turns else 0.0
        self.lowest = float(self.f(self.origin))
        self.reach = next(filter(self._is_straight, REACHES), None)
        if self.reach is None or self.lowest > 0:
            raise NoFit(f"{row.name} does not run from a flat end or an odd one to slope 1")

    def _is_straight(self, reach: float) -> bool:
        ends = self.slope(np.array([-reach, reach]))
        return bool(np.abs(ends - (1 - self.turns, 1)).max() <= FLAT / 10)

    def root(self, points: np.ndarray) -> np.ndarray:
        """s for x = points."""
        height = self.f(points) - self.lowest
        if not self.turns:
            return np.cbrt(height)
        return np.sign(points - self.origin) * np.sqrt(np.maximum(height, 0))

    def depth(self, points: np.ndarray) -> np.ndarray:
        """sqrt(-y), the tail's variable, for x = points."""
        return np.sqrt(np.maximum(-self.f(points), 0))


def _nodes(variable, low: float, high: float) -> np.ndarray:
    """Points x in [low, high] at which `variable` is dense towards both ends."""
    dense = np.linspace(low, high, 200_001)
    values = variable(dense)
    if values[0] > values[-1]:
        dense, values = dense[::-1], values[::-1]
    turns = (1 - np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)) / 2
    return np.interp(values[0] + (values[-1] - values[0]) * turns, values, dense)


def _best(s: np.ndarray, curve: np.ndarray, weight: np.ndarray, degrees: Iterable[int]) -> Rational:
    return min((rational.fit(s, curve, weight, degree) for degree in degrees), key=_badness)


def _badness(fitted: Rational) -> float:
    """The error in float arithmetic; that of the fit itself, which double has too, counts more."""
    return 100 * fitted.error + np.finfo(np.float32).eps / 2 * fitted.condition


def _segment(curves: Curves, low: float, high: float, base: float) -> Rational:
    points = _nodes(curves.root, low, high)
    ones = np.ones_like(points)
    return _best(curves.root(points), curves.slope(points) - base, ones, DEGREES)


def _tail(curves: Curves, start: float) -> Rational:
    """D / y, weighted so that the error is D's; where y is next to 0 it is left out."""
    points = _nodes(curves.depth, -curves.reach, start)
    depth = curves.depth(points)
    points, depth = points[depth > 1e-7], depth[depth > 1e-7]
    return _best(depth, curves.slope(points) / curves.f(points), depth**2, TAIL_DEGREES)


def _split(curves: Curves, low: float, high: float) -> tuple[float, Rational, Rational]:
    """The cut, and the fits on both sides, of which the worse is best."""
    roots, points = _table(curves, low, high)
    tries = []
    for share in CUTS:
        cut = float(np.interp(share * roots[-1], roots, points))
        tries.append((cut, _segment(curves, low, cut, 0.0), _segment(curves, cut, high, 1.0)))
    return min(tries, key=lambda found: max(map(_badness, found[1:])))


def _table(curves: Curves, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(low, high, 200_001)
    return curves.root(points), points


def fit(row: Activation) -> Fit:
    """Fit D for `row`. Raises NoFit where that is impossible or errs by more than 5e-8."""
    curves = Curves(row)
    beyond = np.linspace(curves.origin, curves.reach, 200_001)
    end = float(beyond[np.abs(curves.slope(beyond) - 1) > FLAT][-1])
    low, tail = curves.origin, None
    if curves.turns:
        left = np.linspace(-curves.reach, curves.origin, 200_001)
        low = float(left[curves.f(left) < curves.lowest / 2][0])
        tail = _tail(curves, low)
    cut, near, far = _split(curves, low, end)
    error = max(part.error for part in (near, far, tail) if part)
    if error > GOOD:
        raise NoFit(f"{row.name}: the fit of its slope errs by {error:.1e}")
    return Fit(curves.lowest, *map(float, curves.f(np.array([low, cut, end]))), near, far, tail)


def save(found: Mapping[str, Fit], path: Path = SHIPPED) -> None:
    """Write fits by the names of their rows."""
    arrays = (_to_arrays(name, one) for name, one in found.items())
    np.savez_compressed(path, **{key: array for part in arrays for key, array in part.items()})


def load(row: Activation) -> Fit | None:
    """The shipped fit of a row of the table, None where there is none."""
    arrays = _shipped()
    if f"{row.name}-limits" not in arrays or row != TABLE.get(row.name):
        return None
    keys = ((part, f"{row.name}-{part}") for part in PARTS)
    parts = {p: rational.from_array(arrays[k]) if k in arrays else None for p, k in keys}
    return Fit(*map(float, arrays[f"{row.name}-limits"]), **parts)


def _to_arrays(name: str, found: Fit) -> dict[str, np.ndarray]:
    parts = {part: getattr(found, part) for part in PARTS if getattr(found, part)}
    limits = np.array([found.lowest, found.start, found.cut, found.end])
    arrays = {f"{name}-{part}": rational.to_array(r) for part, r in parts.items()}
    return {f"{name}-limits": limits} | arrays


@cache
def _shipped() -> dict[str, np.ndarray]:
    if not SHIPPED.exists():
        return {}
    with np.load(SHIPPED) as arrays:
        return dict(arrays)
