"""The best few levels for a slope: piecewise constant, with the least weighted squared error.

Nearest levels are cut out of x by borders: exact dynamic programming over a grid of cells finds
them, Newton's method then moves the borders off the grid, to where f' is the mean of the levels on
both sides (Novikov et al. 2022, arXiv 2202.00441, whose alternating scheme stops in local optima).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .calculus import Curve
from .integrals import Integrals, grid
from .partition import partitions
from .weight import Weight
from .widths import WIDTHS, check_widths

STEPS = 100


@dataclass(frozen=True, eq=False)
class Levels:
    """What the codes of a slope mean.

    Args:
        borders: float64 [2^bits - 1], ascending; the code of x is the number of borders below x.
        levels: float64 [2^bits], the slope that each code stands for.
        error: the integral of w (f' - level)², with the weight of the fit.
        even: whether |x| is coded instead of x.
        unbiased: whether codes are drawn, so that the expectation is f' itself; there are no
            borders then, levels ascend over the range of f', and `error` is the variance.
    """

    borders: np.ndarray
    levels: np.ndarray
    error: float
    even: bool = False
    unbiased: bool = False

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (len(self.levels) - 1).bit_length()


def fit(
    f: Curve | None,
    slope: Curve,
    bits: int,
    weight: Weight | str = "normal",
    *,
    even: bool = False,
    breaks: Iterable[float] = (),
) -> Levels:
    """The best 2^bits levels of `slope`, the derivative of `f`, both numpy functions of float64.

    `f` may be None: then nothing is integrated in closed form. With `even`, |x| is coded, which
    doubles the levels of an even slope. `breaks` are points where the slope jumps or bends. Raises
    ValueError for bits other than 1 to 8, an unknown weight and a slope that is not finite.
    """
    return fit_widths(f, slope, (bits,), weight, even=even, breaks=breaks)[bits]


def fit_widths(
    f: Curve | None,
    slope: Curve,
    widths: Sequence[int] = WIDTHS,
    weight: Weight | str = "normal",
    *,
    even: bool = False,
    breaks: Iterable[float] = (),
) -> dict[int, Levels]:
    """`fit` for several widths at the cost of the largest."""
    check_widths(widths)
    measure = Weight.of(weight).folded() if even else Weight.of(weight)
    whole = Integrals(f, slope, measure, grid(slope, measure, breaks))
    found = {}
    for count, cut in enumerate(partitions(_costs(whole), 2 ** max(widths)), start=1):
        if count in {2**bits for bits in widths}:
            borders = polish(whole, whole.edges[cut[1:-1]])
            levels, error = _levels(whole, borders)
            found[count.bit_length() - 1] = Levels(borders, levels, error, even)
    return found


def fit_samples(
    points: np.ndarray,
    slopes: np.ndarray,
    bits: int,
    weight: Weight | str = "normal",
    *,
    even: bool = False,
) -> Levels:
    """The best 2^bits levels of a function that is known at ascending `points`, and 1-D.

    Between them it is taken for straight, beyond them for constant. Any scalar function will do.
    """
    return fit(None, lambda x: np.interp(x, points, slopes), bits, weight, even=even)


def _costs(whole: Integrals) -> np.ndarray:
    """The squared error of one level for the cells between edges i < j, at [j, i]."""
    mass = whole.zeroth[:, None] - whole.zeroth
    moment = whole.first[:, None] - whole.first
    # ∫ f'² w is the same for every partition: what counts is how much of it the levels explain.
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.where(mass > 0, moment**2 / mass, 0.0)
    below = np.tri(len(mass), k=-1, dtype=bool)
    return np.where(below, -explained, np.inf)


def _levels(whole: Integrals, borders: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean slope between borders, and the squared error of all."""
    ends = np.concatenate([whole.edges[:1], borders, whole.edges[-1:]])
    mass, moment = map(np.diff, whole.upto(ends))
    middle = whole.slope((ends[1:] + ends[:-1]) / 2)
    # Where hardly any of the weight lies, both are what rounding left of a difference.
    levels = np.clip(np.divide(moment, mass, out=middle, where=mass > 0), *whole.span(ends))
    return levels, max(float(whole.second - (levels * moment).sum()), 0.0)


def polish(whole: Integrals, borders: np.ndarray) -> np.ndarray:
    """Move borders by damped Newton steps to where the slope is the mean of its two levels."""
    levels, error = _levels(whole, borders)
    for _ in range(STEPS):
        step = _newton_step(whole, borders, levels)
        for damping in 0.5 ** np.arange(8):
            moved = borders - damping * step
            ends = np.concatenate([whole.edges[:1], moved, whole.edges[-1:]])
            if not np.all(np.diff(ends) > 0):
                continue
            moved_levels, moved_error = _levels(whole, moved)
            if moved_error < error:
                break
        else:
            return borders
        borders, levels, error = moved, moved_levels, moved_error
    return borders


def _newton_step(whole: Integrals, borders: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Solve for the zero of f'(border) - (left level + right level) / 2, to first order."""
    ends = np.concatenate([whole.edges[:1], borders, whole.edges[-1:]])
    mass = np.maximum(np.diff(whole.upto(ends)[0]), 1e-300)
    slope, density = whole.slope(borders), whole.weight.density(borders)
    tiny = 1e-6 * (1 + np.abs(borders))
    rise = whole.slope(borders + tiny) - whole.slope(borders - tiny)
    of_left = density * (slope - levels[:-1]) / mass[:-1]  # d(left level) / d(border)
    of_right = density * (levels[1:] - slope) / mass[1:]
    own = rise / (2 * tiny) - (of_left + of_right) / 2
    own = own + np.copysign(1e-9 * np.abs(own).max() + 1e-300, own)  # flat slopes leave it singular
    matrix = np.diag(own) - np.diag(of_right[:-1] / 2, -1) - np.diag(of_left[1:] / 2, 1)
    away = slope - (levels[1:] + levels[:-1]) / 2
    pinned = np.abs(rise) > np.abs(np.diff(levels)) / 10  # where the slope jumps over its mean
    return np.linalg.solve(np.where(pinned[:, None], np.eye(len(own)), matrix), away * ~pinned)
