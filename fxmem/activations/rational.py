"""Near-minimax rational approximation of a sampled curve."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.polynomial import chebyshev
from numpy.polynomial.polynomial import polyval

from .primitives import Offset

ROUNDS, SETTLE = 80, 10


@dataclass(frozen=True)
class Rational:
    """over(t) / under(t) with t = s - centre; coefficients from the constant term up.

    `error` is the largest weighted one at the points of the fit; `condition` is the largest sum of
    its terms' magnitudes there, by which the unit roundoff of an evaluation is multiplied.
    """

    centre: float
    over: np.ndarray
    under: np.ndarray
    error: float
    condition: float

    def terms(self, s: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        """Numerator and denominator as expressions in Horner's form."""
        t = Offset(s, sp.Float(self.centre, 20))
        return _horner(self.over, t), _horner(self.under, t)


def fit(s: np.ndarray, curve: np.ndarray, weight: np.ndarray, degree: int) -> Rational:
    """The rational function of type (degree, degree) with the least weighted error at points s.

    The best of many rounds of reweighted linear least squares. Raises ValueError where the function
    of every round has a pole among the points.
    """
    centre = float(np.float32((s.max() + s.min()) / 2))
    half = np.abs(s - centre).max()
    basis = chebyshev.chebvander((s - centre) / half, degree)
    error, *parts = min(_rounds(basis, curve, weight), key=lambda found: found[0])
    if error == np.inf:
        raise ValueError("every rational function of this degree has a pole among the points")
    scale = half ** -np.arange(degree + 1.0)
    over, under = (chebyshev.cheb2poly(coefficients) * scale for coefficients in parts)
    size = _size(over, s - centre) + np.abs(curve) * _size(under, s - centre)
    condition = (weight * size / polyval(s - centre, under)).max()
    return Rational(centre, over, under, float(error), float(condition))


def _rounds(
    basis: np.ndarray, curve: np.ndarray, weight: np.ndarray
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield error and coefficients, of better functions mostly; the error is infinite at a pole.

    The equations over - curve * under = 0 are weighted by the last denominator (Sanathanan and
    Koerner 1963) and, once that has settled, by the errors (Lawson 1961).
    """
    emphasis, below = np.ones_like(curve), np.ones_like(curve)
    for turn in range(ROUNDS):
        scale = weight * np.sqrt(emphasis) / np.maximum(np.abs(below), 1e-6)
        rows = np.hstack([basis, -curve[:, None] * basis[:, 1:]]) * scale[:, None]
        found = np.linalg.lstsq(rows, curve * scale, rcond=None)[0]
        over, under = np.split(np.insert(found, basis.shape[1], 1.0), 2)
        below = basis @ under
        error = np.abs(basis @ over / below - curve) * weight
        yield error.max() if below.min() > 0 else np.inf, over, under
        if turn >= SETTLE:
            emphasis = emphasis * (error / error.max() + 1e-3)
            emphasis /= emphasis.mean()


def _size(coefficients: np.ndarray, t: np.ndarray) -> np.ndarray:
    return polyval(np.abs(t), np.abs(coefficients))


def to_array(fitted: Rational) -> np.ndarray:
    """`[error, condition, centre, over…, under…]`, for `from_array`."""
    head = [fitted.error, fitted.condition, fitted.centre]
    return np.concatenate([head, fitted.over, fitted.under])


def from_array(numbers: np.ndarray) -> Rational:
    """The function that `to_array` wrote."""
    error, condition, centre = map(float, numbers[:3])
    over, under = np.split(numbers[3:], 2)
    return Rational(centre, over, under, error, condition)


def _horner(coefficients: np.ndarray, t: sp.Expr) -> sp.Expr:
    total = sp.Float(coefficients[-1], 20)
    for coefficient in coefficients[-2::-1]:
        total = total * t + sp.Float(coefficient, 20)
    return total
