"""Levels of slopes that are flat, that jump, or that are not finite."""

import warnings

import numpy as np
import pytest
import torch

from fxmem import functional
from fxmem.activations import store
from fxmem.activations.calculus import kinks, slope_curve
from fxmem.activations.levels import fit
from fxmem.activations.table import TABLE
from fxmem.activations.unbiased import fit_unbiased, span
from fxmem.activations.weight import Weight

FINE = np.linspace(-9.9999, 9.9999, 100_001)
CASES = [("elu", (0.0,), 8), ("elu", (-1.0,), 4), ("celu", (0.01,), 5), ("celu", (-0.3,), 3)]
SLOPES = pytest.mark.parametrize(("name", "parameters", "bits"), CASES)


@SLOPES
def test_levels_are_slopes_of_their_intervals(name, parameters, bits):
    table = store.levels(name, bits, parameters=parameters)
    points = np.sort(np.concatenate([FINE, table.borders + 1e-12, table.borders - 1e-12]))
    slopes = slope_curve(TABLE[name], parameters)(points)
    codes = np.searchsorted(table.borders, points)
    for code, level in enumerate(table.levels):
        own = slopes[codes == code]
        slack = 1e-3 * np.abs(own).max(initial=1e-3)
        assert own.min() - slack <= level <= own.max() + slack


@SLOPES
def test_drawn_levels_ascend_over_the_slopes(name, parameters, bits):
    table = store.levels(name, bits, parameters=parameters, unbiased=True)
    row = TABLE[name]
    ends = span(slope_curve(row, parameters), Weight.of("normal"), kinks(row, parameters))
    assert len(table.levels) == 2**bits and np.all(np.diff(table.levels) >= 0)
    assert np.isfinite(table.error) and tuple(table.levels[[0, -1]]) == ends


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("bits", [1, 8])
def test_a_slope_of_zeros_and_ones_is_exact(bits, unbiased):
    x = torch.tensor([-9.9, -8.3, -0.5, 0.5, 8.3, 9.9, 50.0], requires_grad=True)
    functional.elu(x, alpha=0.0, bits=bits, unbiased=unbiased).sum().backward()
    assert x.grad.tolist() == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("bits", [1, 3])
def test_a_constant_slope(bits):
    for table in (fit(None, np.ones_like, bits), fit_unbiased(np.ones_like, (bits,))[bits]):
        assert np.array_equal(table.levels, np.ones(2**bits))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("fitted", [lambda f: fit(None, f, 3), lambda f: fit_unbiased(f, (3,))])
def test_slopes_without_levels(fitted, wrong):
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"a slope that is finite, and below 1e\+150, from -10"),
    ):
        warnings.simplefilter("error")
        fitted(lambda x: np.where(x > 2, wrong, 1.0))
