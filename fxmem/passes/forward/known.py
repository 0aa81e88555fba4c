"""Which activation a cone is: found by running it, so every spelling of the same function counts.

Value and derivative are compared in float64 with those of each row of the table. Kinks lie between
the points: there any slope between the two sides' is a derivative, and spellings differ.
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

# Dense around zero, and far out, where a clamp would show. No kink is among them.
NEAR = np.sinh(np.linspace(-14.5, 14.5, 1001) + 0.00123)
POINTS = np.concatenate([NEAR, [-1e40, -1e12, 1e12, 1e40]])
# Within it no spelling may overflow; beyond it float32's exponential does.
SAFE = np.abs(POINTS) < 80
# A few roundings of float32: constants are often spelled, or kept, with no more.
TOLERANCE = 2.0**-21
MOST_NUMBERS = 6

Curves = tuple[np.ndarray, np.ndarray]


def identify(cone: Cone) -> tuple[str, tuple[float, ...]] | None:
    """Return the name and parameters of the activation that a cone computes, None for no known."""
    curves = _sampled(cone)
    if curves is None or not np.ptp(curves[1]):  # a straight line is no activation
        return None
    for name, parameters in _candidates(cone):
        if _agree(curves, _expected(name, parameters)):
            return name, parameters
    return None


def _sampled(cone: Cone) -> Curves | None:
    """Run a cone on the points in float64; None where it is no such function."""
    leaf = torch.tensor(POINTS, requires_grad=True)
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
    """Yield rows with the parameters to try: what is called by its name with its own numbers."""
    rows = [row for row in TABLE.values() if row.gate is None]
    called = [row for row in rows if row.torch == op(cone.exit)]
    numbers = cone.numbers()[:MOST_NUMBERS]
    yield from itertools.chain.from_iterable(_filled(row, numbers) for row in called)
    yield from ((row.name, row.defaults) for row in rows)
    yield from itertools.chain.from_iterable(_filled(row, numbers) for row in rows)


def _filled(row: Activation, numbers: list[float]) -> Iterator[tuple[str, tuple[float, ...]]]:
    choices = [dict.fromkeys([*numbers, default]) for default in row.defaults]
    return ((row.name, chosen) for chosen in itertools.product(*choices))


@cache
def _expected(name: str, parameters: tuple[float, ...]) -> Curves:
    row = TABLE[name]
    return value_curve(row, parameters)(POINTS), slope_curve(row, parameters)(POINTS)


def _agree(found: Curves, expected: Curves) -> bool:
    finite = np.isfinite(found[0]) & np.isfinite(found[1])
    if not finite[SAFE].all():
        return False
    (value, slope), (f, df) = ([curve[finite] for curve in curves] for curves in (found, expected))
    near = np.abs(value - f) <= TOLERANCE * np.maximum(np.abs(POINTS[finite]), np.abs(f))
    steep = np.abs(slope - df) <= TOLERANCE * np.maximum(1, np.abs(df))
    return bool(near.all() and steep.all())
