"""The error of a table of levels, whatever it was fitted to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fxmem.activations.calculus import Curve
from fxmem.activations.integrals import grid, quadrature
from fxmem.activations.levels import Levels
from fxmem.activations.weight import Weight


def squared_error(
    slope: Curve, table: Levels, weight: Weight | str, breaks: Iterable[float] = ()
) -> float:
    """The integral over x of weight * (slope - level)²; of drawn codes, its expectation."""
    weight = Weight.of(weight)
    measure = weight.folded() if table.even else weight
    inside = (measure.low < table.borders) & (table.borders < measure.high)
    edges = np.unique(np.concatenate([grid(slope, measure, breaks), table.borders[inside]]))
    points, masses = quadrature(measure, edges[:-1], edges[1:])
    slopes, levels = slope(points), table.levels
    if table.unbiased:
        upper = np.clip(np.searchsorted(levels, slopes), 1, len(levels) - 1)
        low, high = levels[upper - 1], levels[upper]
        drawn = np.clip(slopes, levels[0], levels[-1])  # beyond them the last level always is
        off = (high - drawn) * (drawn - low) + (slopes - drawn) ** 2
    else:
        off = (slopes - levels[np.searchsorted(table.borders, points)]) ** 2
    return float((masses * off).sum())
