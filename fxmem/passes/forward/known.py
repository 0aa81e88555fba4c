"""Which activation a cone is: found by running it, so every spelling of the same function counts.

Value and derivative are compared in float64 with those of each row of the table. Kinks lie between
the points: there any slope between the two sides' is a derivative, and spellings differ. At what is
no finite number, too, values are compared: a guard against it is part of what a program computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from fxmem.activations.calculus import slope_curve, value_curve
from fxmem.activations.table import TABLE, Activation
from fxmem.passes.forward.cones import Cone
from fxmem.passes.forward.dialect import op

# Dense around zero, toward it where a kink beside it would show, and far out, where a clamp would.
# No kink is among them.
NEAR = np.sinh(np.linspace(-14.5, 14.5, 1001) + 0.00123)
SMALL = np.geomspace(1.1e-12, 0.0311, 47)
POINTS = np.concatenate([NEAR, SMALL, -SMALL, [-1e40, -1e12, 1e12, 1e40]])
# Within it no spelling may overflow; beyond it float32's exponential does.
SAFE = 80
# A few roundings of float32: constants are often spelled, or kept, with no more.
TOLERANCE = 2.0**-21
# Absolute, many roundings of float64: a spelling that cancels leaves them where it is near zero.
CANCELLED = 2.0**-43
# Times a number of the cone: a thousandth to either side, where hardly another kink is.
BESIDE = np.array([1 - 1.03e-3, 1 + 1.03e-3])
MOST_NUMBERS = 6
# What is there to find what is no finite number; of NaN other comparisons only happen to be false.
GUARDS = {"isnan", "isfinite", "isinf", "isposinf", "isneginf", "isreal", "nan_to_num"}
GUARDS |= {"eq", "ne", "not_equal", "fmax", "fmin"}

Curves = tuple[np.ndarray, np.ndarray]


def identify(cone: Cone) -> tuple[str, tuple[float, ...]] | None:
    """Return the name and parameters of the activation that a cone computes, None for no known."""
    curves = _sampled(cone, POINTS)
    if curves is None or not np.ptp(curves[1]):  # a straight line is no activation
        return None
    for name, parameters in _candidates(cone):
        if _agree(POINTS, curves, _expected(name, parameters)) and _holds(cone, name, parameters):
            return name, parameters
    return None


def _sampled(cone: Cone, points: np.ndarray) -> Curves | None:
    """Run a cone on points in float64; None where it is no such function."""
    leaf = torch.tensor(points, requires_grad=True)
    value = cone.run(leaf.clone(), casts=False)
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return None
    if value.shape != leaf.shape or value.dtype != leaf.dtype:
        return None
    try:
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    except RuntimeError:
        return None  # the value depends on something else that wants a gradient
    return value.detach().numpy(), slope.numpy()


def _candidates(cone: Cone) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield rows with the parameters to try: what is called by its name with its own numbers.

    Then all with the cone's numbers, before the defaults, which may only be close to them.
    """
    rows = [row for row in TABLE.values() if row.gate is None]
    called = [row for row in rows if row.torch == op(cone.exit)]
    numbers = cone.numbers()[:MOST_NUMBERS]
    yield from itertools.chain.from_iterable(_filled(row, numbers) for row in called)
    yield from ((row.name, ()) for row in rows if not row.parameters)
    yield from itertools.chain.from_iterable(
        _filled(row, numbers) for row in rows if row.parameters
    )


def _filled(row: Activation, numbers: list[float]) -> Iterator[tuple[str, tuple[float, ...]]]:
    choices = [dict.fromkeys([*numbers, default]) for default in row.defaults]
    return ((row.name, chosen) for chosen in itertools.product(*choices))


@cache
def _expected(name: str, parameters: tuple[float, ...]) -> Curves:
    return _row_sampled(name, parameters, POINTS)


def _row_sampled(name: str, parameters: tuple[float, ...], points: np.ndarray) -> Curves:
    row = TABLE[name]
    return value_curve(row, parameters)(points), slope_curve(row, parameters)(points)


def _agree(points: np.ndarray, found: Curves, expected: Curves) -> bool:
    finite = np.isfinite(found[0]) & np.isfinite(found[1])
    if not finite[np.abs(points) < SAFE].all():
        return False
    (value, slope), (f, df) = ([curve[finite] for curve in curves] for curves in (found, expected))
    steep = np.abs(slope - df) <= TOLERANCE * np.maximum(1, np.abs(df))
    return bool(steep.all() and _is_close(points[finite], value, f).all())


def _is_close(points: np.ndarray, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Whether values are one; of what is not finite, whether they are the same."""
    size = np.maximum(np.where(np.isfinite(points), np.abs(points), 0), np.abs(expected))
    with np.errstate(invalid="ignore"):
        close = np.abs(found - expected) <= np.maximum(TOLERANCE * size, CANCELLED)
    return np.where(np.isfinite(found) & np.isfinite(expected), close, found == expected)


def _holds(cone: Cone, name: str, parameters: tuple[float, ...]) -> bool:
    """Whether a cone is a row beside its own numbers, too, on them, and beyond all numbers.

    A spelling may be NaN or overflow where the row has a limit; a row has nothing to give where the
    spelling is finite and it is not.
    """
    numbers = np.array([n for n in cone.numbers() if 0 < abs(n) < SAFE])
    beside = np.outer([*numbers, *-numbers], BESIDE).ravel()
    edges = np.array([-np.inf, np.inf, 0, *numbers, *-numbers])
    if not _may_drop_nan(cone, name):
        edges = np.append(edges, np.nan)
    near, there = _sampled(cone, beside), _sampled(cone, edges)
    if near is None or there is None:
        return False
    if not _agree(beside, near, _row_sampled(name, parameters, beside)):
        return False
    same = _is_close(edges, there[0], _row_sampled(name, parameters, edges)[0])
    return bool(same[np.isfinite(there[0])].all())


def _may_drop_nan(cone: Cone, name: str) -> bool:
    """Whether a NaN only falls to one side of comparisons that spell a row's pieces."""
    guarded = any(op(node).rstrip("_") in GUARDS for node in cone.nodes)
    bounded = np.isfinite(cone.numbers()).all()
    return TABLE[name].definition.is_Piecewise and bounded and not guarded
