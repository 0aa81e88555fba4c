"""The few steps that are nearest to a function, and how far they are off."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from fxmem.activations import store
from fxmem.activations.calculus import slope_curve, step_slopes
from fxmem.activations.levels import Levels, fit
from fxmem.activations.table import TABLE
from fxmem.passes.pair.curves import (
    GRID,
    INNER,
    JUMPS,
    Curve,
    Jumps,
    NoCode,
    is_multiple,
)

TYPICAL = np.array([NormalDist().inv_cdf(p) for p in np.arange(0.005, 1, 0.01)])
NEAR = 1e-3  # a border at such a distance from a jump means the jump


@dataclass(frozen=True)
class Steps:
    """A function in steps: `levels[number of borders below x]`, of |x| where `even`.

    `of` says which function it is. `error` is the largest distance between it and the steps as a
    part of its largest value, rounded up to two digits.
    """

    of: str
    borders: tuple[float, ...]
    levels: tuple[float, ...]
    even: bool
    error: float


@functools.lru_cache(maxsize=128)
def nearest(curve: Curve, bits: int) -> Steps:
    """Return the 2^bits steps nearest to a function, for normally distributed values.

    A known activation's derivative, or a multiple of it and a number, has the shipped levels.

    Raises:
        NoCode: where they are further off than what the function mostly is, as beside a pole.
    """
    values = np.frombuffer(curve.values)
    peak = np.abs(values).max()
    of, fitted = next(_known(values, bits), None) or _fitted(values, curve.jumps, bits)
    borders, levels = _short(fitted.borders, INNER[-1]), _short(fitted.levels, peak)
    borders = tuple(_at_jump(border, curve.jumps) for border in borders)
    codes = np.searchsorted(borders, np.abs(GRID) if fitted.even else GRID)
    error = np.abs(np.asarray(levels)[codes] - values).max() + _between(values)
    if error > np.quantile(np.abs(np.interp(TYPICAL, GRID, values)), 0.9):
        raise NoCode(f"no {len(levels)} steps are near to its function")
    return Steps(of, borders, levels, fitted.even, _up(error / peak))


def _known(values: np.ndarray, bits: int) -> Iterator[tuple[str, Levels]]:
    """Yield what is known of these values: a multiple of a smooth row's derivative, and a number.

    The number is 1 where the input is added to what an activation makes of it; 0 comes first, for
    1 - sigmoid(x) is sigmoid(-x).
    """
    smooth = [row for row in TABLE.values() if row.gate is None and not step_slopes(row)]
    for is_alone in (True, False):
        for row in smooth:
            slopes = slope_curve(row)(GRID)
            factor, number = _line(slopes, values)
            alone = is_multiple(values, slopes, factor)
            if alone == is_alone and is_multiple(values - number, slopes, factor):
                table = store.levels(row, bits)
                levels = factor * table.levels + (0.0 if alone else number)
                yield f"{row.name}'s derivative", replace(table, levels=levels)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of the line through where x is largest and where it is least."""
    ends = [x.argmin(), x.argmax()]
    return tuple(np.polyfit(x[ends], y[ends], 1))


def _fitted(values: np.ndarray, jumps: Jumps, bits: int) -> tuple[str, Levels]:
    even = is_multiple(values, values[::-1], 1.0)
    low, high, left, right = np.reshape(jumps, (-1, 4)).T
    points = np.concatenate([GRID[GRID != 0], low, high])
    order = np.argsort(points, kind="stable")
    slopes = np.concatenate([values[GRID != 0], left, right])[order]
    function = functools.partial(np.interp, xp=points[order], fp=slopes)
    breaks = np.abs(low) if even else low
    return "a function of it", fit(None, function, bits, even=even, breaks=breaks)


def _at_jump(border: float, jumps: Jumps) -> float:
    """Return the jump that a border means, for elements on its wrong side would be far off."""
    return min((low for low, *_ in jumps if abs(low - border) < NEAR), default=border)


def _between(values: np.ndarray) -> float:
    """Return how far a function may be, between two points of the grid, from the nearer one."""
    changes = np.sort(np.abs(np.diff(values)))
    return changes[-JUMPS] / 2  # those where it jumps are more


def _short(numbers: np.ndarray, scale: float) -> tuple[float, ...]:
    """Return the numbers as they are written into the graphs: in six digits of `scale`."""
    digits = 6 - math.ceil(math.log10(scale))
    return tuple((numbers.round(digits) + 0.0).tolist())  # no -0.0


def _up(error: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(max(error, 1e-9))) - 1)
    return math.ceil(error / unit) * unit
