"""Densities of an activation's inputs, by which the error of its levels is weighed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

REACH = 10.0


@dataclass(frozen=True, eq=False)
class Weight:
    """A density w on [edges[0], edges[-1]].

    Args:
        edges: where its form changes, ascending.
        heights: the constant density between neighbouring edges, or None for a normal density.
        scale: a factor of the normal density.
    """

    edges: np.ndarray
    heights: np.ndarray | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, weight: Weight | str) -> Weight:
        """A weight itself, or one by name: see `NAMED`. Raises ValueError for another name."""
        if isinstance(weight, cls):
            return weight
        if weight not in NAMED:
            raise ValueError(
                f"weight must be a Weight or one of {', '.join(NAMED)}; got {weight!r}"
            )
        return NAMED[weight]

    @classmethod
    def histogram(cls, edges: Sequence[float], counts: Sequence[float]) -> Weight:
        """The density of inputs that were counted in bins: n + 1 ascending edges, n counts.

        Raises ValueError where the sizes do not fit, edges do not ascend or nothing was counted.
        """
        borders, filled = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
        if borders.ndim != 1 or filled.shape != (borders.size - 1,):
            raise ValueError(
                f"{borders.size} edges need {borders.size - 1} counts, got {filled.size}"
            )
        if not (np.all(np.diff(borders) > 0) and np.all(filled >= 0) and filled.sum() > 0):
            raise ValueError("edges must ascend, counts be at least 0, and one of them more")
        return cls(borders, filled / filled.sum() / np.diff(borders))

    @classmethod
    def samples(cls, inputs: np.ndarray, bins: int = 256) -> Weight:
        """The histogram of the finite ones among `inputs`, of any shape.

        Raises ValueError where there are none, and where they do not fall into bins of float64.
        """
        given = np.asarray(inputs, np.float64).ravel()
        finite = given[np.isfinite(given)]
        if not finite.size:
            raise ValueError("no input is a finite number")
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                counts, edges = np.histogram(finite, bins)
        except ValueError as error:
            raise ValueError(
                f"no {bins} bins can be told apart from {finite.min():g} to {finite.max():g}"
            ) from error
        return cls.histogram(edges, counts)

    @property
    def low(self) -> float:
        """The lower end of the domain."""
        return float(self.edges[0])

    @property
    def high(self) -> float:
        """The upper end of the domain."""
        return float(self.edges[-1])

    def density(self, points: np.ndarray) -> np.ndarray:
        """w at `points` inside the domain."""
        if self.heights is None:
            return self.scale * np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi)
        place = np.searchsorted(self.edges, points, side="right") - 1
        return self.heights[np.clip(place, 0, len(self.heights) - 1)]

    def folded(self) -> Weight:
        """The density of |x|."""
        if self.heights is None:
            return replace(self, edges=self.edges[self.edges >= 0], scale=2 * self.scale)
        edges = np.unique(np.abs(np.append(self.edges, 0.0)))
        middle = (edges[1:] + edges[:-1]) / 2
        inside = [(self.edges[0] <= m) & (m <= self.edges[-1]) for m in (middle, -middle)]
        both = (self.density(m) * i for m, i in zip((middle, -middle), inside, strict=True))
        return Weight(edges, sum(both))


NAMED = {
    # Not a probability: published errors are integrals over [-10, 10].
    "uniform": Weight(np.array([-REACH, REACH]), np.array([1.0])),
    "normal": Weight(np.array([-REACH, 0.0, REACH])),
}
