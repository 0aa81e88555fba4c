"""Integrals of a slope and its square under a weight, over a grid of cells."""

from collections.abc import Iterable

import numpy as np

from .calculus import Curve
from .weight import Weight

CELLS, SPREAD = 1000, np.array([0.7, 0.2, 0.1])
NODES, SHARES = np.polynomial.legendre.leggauss(8)
LARGEST = 1e150  # slopes whose squares can be summed
INSIDE = np.concatenate([[-1 + 1e-9], NODES, [1 - 1e-9]])  # of a cell, where kinks are its edges


def grid(slope: Curve, weight: Weight, breaks: Iterable[float] = ()) -> np.ndarray:
    """Edges of cells that are small where many levels will be wanted.

    With many levels their best density is the cube root of f''² w (Bennett 1948), and most cells
    follow it; the others follow the weight alone, or lie evenly, for the few levels. Raises
    ValueError for a slope that is not finite, or so large that sums of its squares are not.
    """
    low, high = weight.low, weight.high
    fine = np.linspace(low, high, 40 * CELLS + 1)
    slopes = slope(fine)
    if not (np.abs(slopes) < LARGEST).all():
        raise ValueError(
            f"levels can be fitted to a slope that is finite, and below {LARGEST:g}, from "
            f"{low:g} to {high:g}: this one is not"
        )
    middle = (fine[1:] + fine[:-1]) / 2
    density = weight.density(middle)
    wanted = np.cbrt([np.diff(slopes) ** 2 * density, density, np.ones_like(density)])
    wanted /= np.maximum(wanted.sum(axis=1, keepdims=True), 1e-300)  # a flat slope wants none
    reached = np.append(0.0, np.cumsum(SPREAD @ wanted))
    edges = np.interp(np.linspace(0, reached[-1], CELLS + 1), reached, fine)
    extra = [b for b in (*breaks, *weight.edges) if low < b < high]
    return np.unique(np.concatenate([edges, extra]))


def quadrature(weight: Weight, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 8] in n intervals, and the weight's mass at each."""
    half = (high - low) / 2
    points = (low + half)[:, None] + half[:, None] * NODES
    return points, weight.density(points) * SHARES * half[:, None]


class Integrals:
    """∫ w, ∫ f' w and ∫ f'² w from the first edge: at every edge, and up to any point.

    Where w is constant between edges, ∫ f' w is in closed form, as f is the antiderivative of f';
    the rest is Gauss and Legendre's quadrature of eight nodes a cell.
    """

    def __init__(self, f: Curve | None, slope: Curve, weight: Weight, edges: np.ndarray) -> None:
        self.f, self.slope, self.weight, self.edges = f, slope, weight, edges
        zeroth, first, second = self._over(edges[:-1], edges[1:], powers=3)
        self.zeroth, self.first = (np.append(0.0, np.cumsum(part)) for part in (zeroth, first))
        self.second = float(second.sum())
        middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        slopes = slope(middle[:, None] + half[:, None] * INSIDE)
        self.least, self.most = slopes.min(axis=1), slopes.max(axis=1)

    def upto(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∫ w and ∫ f' w from the first edge to `points`."""
        cell = np.clip(np.searchsorted(self.edges, points) - 1, 0, len(self.edges) - 2)
        zeroth, first = self._over(self.edges[cell], points, powers=2)
        return self.zeroth[cell] + zeroth, self.first[cell] + first

    def span(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest slope in the cells between neighbours of ascending `ends`."""
        first = np.searchsorted(self.edges, ends[:-1], side="right") - 1
        beyond = np.searchsorted(self.edges, ends[1:])
        parts = np.stack([first, beyond], axis=1).ravel()[:-1]  # the last runs to the end
        least = np.minimum.reduceat(self.least, parts)[::2]
        return least, np.maximum.reduceat(self.most, parts)[::2]

    def _over(self, low: np.ndarray, high: np.ndarray, powers: int) -> list[np.ndarray]:
        """∫ f'^k w over the parts [low, high] of cells, for k = 0, 1, …"""
        points, masses = quadrature(self.weight, low, high)
        slopes = self.slope(points)
        moments = [(masses * slopes**power).sum(axis=1) for power in range(powers)]
        if self.f is not None and self.weight.heights is not None:
            moments[1] = self.weight.density((low + high) / 2) * (self.f(high) - self.f(low))
        return moments
