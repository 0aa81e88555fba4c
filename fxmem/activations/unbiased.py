"""Levels for codes that are drawn: between two neighbours, so that the expectation is f' itself.

The variance of such a code at slope v between levels a <= v <= b is (b - v)(v - a). The levels span
the range of f' and are those of the least weighted variance.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from .calculus import FAR, Curve
from .integrals import CELLS, grid, quadrature
from .levels import Levels
from .partition import partitions
from .weight import Weight
from .widths import WIDTHS, check_widths

SWEEPS, POINTS = 50, 400_001
BEYOND = 1e6  # a slope that is no larger there is bounded


class Spread:
    """How the slope is distributed: ∫ w, ∫ f' w and ∫ f'² w where f' is at most some value."""

    def __init__(self, slope: Curve, weight: Weight, breaks: Iterable[float]) -> None:
        edges = grid(slope, weight, breaks)
        points, masses = quadrature(weight, edges[:-1], edges[1:])
        slopes = slope(points).ravel()
        order = np.argsort(slopes)
        low, high = span(slope, weight, breaks)
        self.values = np.concatenate([[low], np.clip(slopes[order], low, high), [high]])
        masses = np.concatenate([[0.0], masses.ravel()[order], [0.0]])
        self.moments = np.array([np.cumsum(masses * self.values**power) for power in range(3)])

    def upto(self, values: np.ndarray) -> np.ndarray:
        """The three integrals, [3, n], for n values."""
        return self.moments[:, np.searchsorted(self.values, values, side="right") - 1]

    def candidates(self) -> np.ndarray:
        """Values among which levels are sought, closest where the slope dwells."""
        fine = np.linspace(self.values[0], self.values[-1], 20 * CELLS)
        density = np.cbrt(np.diff(self.upto(fine)[0]))
        reached = np.append(0.0, np.cumsum(density + density.mean() / 4))
        return np.interp(np.linspace(0, reached[-1], CELLS), reached, fine)

    def variance(self, levels: np.ndarray) -> float:
        """The weighted variance of codes between neighbours of ascending `levels`."""
        mass, moment, square = np.diff(self.upto(levels))
        low, high = levels[:-1], levels[1:]
        return max(float(((low + high) * moment - low * high * mass - square).sum()), 0.0)

    def costs(self, values: np.ndarray) -> np.ndarray:
        """The variance between neighbouring levels values[i] < values[j], at [j, i]."""
        mass, moment, square = (m[:, None] - m for m in self.upto(values))
        low, high = values, values[:, None]
        below = np.tri(len(values), k=-1, dtype=bool)
        return np.where(below, (low + high) * moment - low * high * mass - square, np.inf)

    def polish(self, levels: np.ndarray) -> np.ndarray:
        """Move every other level to its best place between its neighbours, and so on in turn."""
        levels = levels.copy()
        for sweep in range(SWEEPS):
            own = np.arange(1 + sweep % 2, len(levels) - 1, 2)
            low, high = levels[own - 1], levels[own + 1]
            (mass_low, first_low, _), (mass_high, first_high, _) = self.upto(low), self.upto(high)
            # The derivative is 0 where ∫ w up to the level is this.
            wanted = high * mass_high - low * mass_low - (first_high - first_low)
            share = np.divide(wanted, high - low, out=np.zeros_like(low), where=high > low)
            moved = np.interp(share, self.moments[0], self.values)
            levels[own] = np.clip(moved, low, high)
        return levels


def bounds(slope: Curve, breaks: Iterable[float]) -> tuple[float, float] | None:
    """The range of f' over all x; None where it is not bounded."""
    middle, ends = slope(np.linspace(-FAR, FAR, POINTS)), slope(np.array([-BEYOND, BEYOND]))
    if not np.abs(ends).max() <= 10 * np.abs(middle).max():
        return None
    return _extent(np.concatenate([middle, ends]), slope, breaks)


def span(slope: Curve, weight: Weight, breaks: Iterable[float]) -> tuple[float, float]:
    """The range of f': of all x where it is bounded, else of the weight's domain."""
    inside = np.linspace(weight.low, weight.high, POINTS)
    return bounds(slope, breaks) or _extent(slope(inside), slope, breaks)


def _extent(slopes: np.ndarray, slope: Curve, breaks: Iterable[float]) -> tuple[float, float]:
    sides = [np.nextafter(border, side) for border in breaks for side in (-np.inf, np.inf)]
    slopes = np.append(slopes, slope(np.array(sides)))
    return float(slopes.min()), float(slopes.max())


def fit_unbiased(
    slope: Curve,
    widths: Sequence[int] = WIDTHS,
    weight: Weight | str = "normal",
    *,
    breaks: Iterable[float] = (),
) -> dict[int, Levels]:
    """For each width the 2^bits levels of least variance for drawn codes of `slope`.

    Outside the weight's domain an unbounded slope is coded by the last level, which is biased.
    Raises ValueError for bits other than 1 to 8, an unknown weight and a slope that is not finite.
    """
    check_widths(widths)
    spread = Spread(slope, Weight.of(weight), breaks)
    values = np.unique(spread.candidates())
    found = {}
    for intervals, cut in enumerate(partitions(spread.costs(values), 2 ** max(widths)), start=1):
        bits = intervals.bit_length()
        if bits in widths and intervals == 2**bits - 1:
            levels = spread.polish(values[cut])
            found[bits] = Levels(np.empty(0), levels, spread.variance(levels), unbiased=True)
    return found
