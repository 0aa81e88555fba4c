"""The slope from the output: its error in each dtype, tails, limits and anything finite."""

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

from fxmem.activations import calculus, fits, inverse
from fxmem.activations.primitives import Softplus
from fxmem.activations.table import TABLE, Activation, x, y

from .exact import DTYPES, OTHERS, ROWS, definition, in_digits, name

INVERTIBLE = [row for row in ROWS if inverse.branches(row)]
FITTED = [row for row in ROWS if inverse.fitted(row)]
TURNING = [row for row in INVERTIBLE if inverse.branches(row) == 2]
# Where f has a kink, y may round to the kink's own: then the slope is that of either side.
SMOOTH_PART = 0.02


def inputs(row, rounded):
    """Numbers of a dtype over ±200, close around 0, and closest around the turning point."""
    parts = [np.linspace(-200, 200, 20_001), np.linspace(-12, 12, 200_001)]
    parts += [turn + np.linspace(-3e-3, 3e-3, 20_001) for turn in calculus.turning_points(row)]
    return np.asarray(rounded(np.concatenate(parts)), np.float64)


def recovered(row, dtype):
    """x, the slope at x, and the slope from y = f(x) rounded to `dtype`."""
    rounded, _, real = DTYPES[dtype]
    points = inputs(row, rounded)
    with np.errstate(over="ignore"):
        y = np.asarray(rounded(calculus.value_curve(row)(points)), np.float64)
        keep = np.isfinite(y) & np.isfinite(calculus.slope_curve(row)(points).astype(np.float32))
    points, y = points[keep], y[keep]
    right = points > (*calculus.turning_points(row), 0.0)[0]
    slopes = calculus.slope_curve(row)(points)
    return points, slopes, inverse.output_curve(row, dtype=real)(y, right).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", INVERTIBLE, ids=name)
def test_error_is_within_the_stated_bound(row, dtype):
    points, slopes, found = recovered(row, dtype)
    assert not np.isnan(found).any()
    eps = DTYPES[dtype][1]
    levels = calculus.value_curve(row)(np.array(calculus.kinks(row)))
    away = np.ones(points.shape, bool)
    for level in levels:
        away &= np.abs(calculus.value_curve(row)(points) - level) > eps * np.abs(level)
    error = (np.abs(found - slopes) / np.maximum(np.abs(slopes), 1))[away]
    assert error.max() <= inverse.output_error_bound(row, eps)


@pytest.mark.parametrize("dtype", ["fp32", "fp32 in float"])
@pytest.mark.parametrize("row", INVERTIBLE, ids=name)
def test_float32_is_good_to_2e_4_and_away_from_the_minimum_to_1e_5(row, dtype):
    assert inverse.output_error_bound(row, 2.0**-23) <= 2e-4
    points, slopes, found = recovered(row, dtype)
    error = np.abs(found - slopes) / np.maximum(np.abs(slopes), 1)
    turns = calculus.turning_points(row)
    away = np.abs(points - turns[0]) > SMOOTH_PART if turns else np.ones(points.shape, bool)
    assert error.max() <= 2e-4
    assert error[away].max() <= 1e-5


@pytest.mark.parametrize("row", FITTED, ids=name)
def test_fits_are_good_to_1e_7_in_float64(row):
    turns = calculus.turning_points(row)
    points = inputs(row, np.float64)
    points = points[np.abs(points - (turns or (0.0,))[0]) > SMOOTH_PART]
    y, right = calculus.value_curve(row)(points), points > (*turns, 0.0)[0]
    error = inverse.output_curve(row)(y, right) - calculus.slope_curve(row)(points)
    assert np.abs(error).max() <= 1e-7


@pytest.mark.parametrize("row", [row for row in ROWS if row.from_output], ids=name)
def test_closed_forms_are_exact(row):
    with mp.workdps(60):
        slope = in_digits(calculus.slope(row), row, row.defaults)
        for point in map(mp.mpf, ("-7.5", "-2.75", "-1.25", "-0.5", "0.125", "1.5", "4", "19")):
            right = point > (*calculus.turning_points(row), 0.0)[0]
            expr = inverse.from_output(row).subs({inverse.BRANCH: right, y: x})
            found = in_digits(expr, row, row.defaults)(definition(row, row.defaults)(point))
            assert abs(found - slope(point)) <= mp.mpf("1e-30")


@pytest.mark.parametrize("case", OTHERS.items(), ids=lambda case: case[0])
def test_other_parameters(case):
    row, parameters = TABLE[case[0]], case[1]
    points = np.linspace(-6, 1.6, 1001)  # softplus is straight beyond
    f, found = calculus.value_curve(row, parameters), inverse.output_curve(row, parameters)
    slopes = calculus.slope_curve(row, parameters)(points)
    np.testing.assert_allclose(found(f(points), points > 0), slopes, rtol=1e-11, atol=1e-14)


def test_parameters_without_an_inverse():
    bad = {"leaky_relu": (-0.1,), "elu": (-1.0,), "softplus": (1.0, 2.0), "threshold": (0.0, 1.0)}
    for row, parameters in ((TABLE[key], values) for key, values in bad.items()):
        assert row.invertible.subs(dict(zip(row.symbols, row.defaults, strict=True)))
        assert not row.invertible.subs(dict(zip(row.symbols, parameters, strict=True)))


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("row", TURNING, ids=name)
def test_limits(row, real):
    found = inverse.output_curve(row, dtype=real)
    tails = np.array([-0.0, 0.0, 100.0, 1e30, np.inf])
    np.testing.assert_array_equal(found(tails[:2], np.array(False)), [0, 0])
    np.testing.assert_array_equal(found(tails[2:], np.array(True)), [1, 1, 1])
    assert np.isnan(found(np.array([np.nan]), np.array([False]))).all()
    assert np.isnan(found(np.array([np.nan]), np.array([True]))).all()
    small = -np.geomspace(1e-30, 1e-6, 100)
    if row in FITTED:  # hardswish begins to fall at once
        assert np.all(np.abs(found(small, np.array(False))) < 100 * np.abs(small))


@pytest.mark.parametrize("row", TURNING, ids=name)
def test_outputs_below_the_minimum_have_slope_zero(row):
    lowest = calculus.value_curve(row)(np.array(calculus.turning_points(row)))[0]
    below = lowest * (1 + np.array([1e-7, 2.0**-11, 2.0**-8, 2.0**-5]))
    for real in (np.float32, np.float64):
        for right in (False, True):
            found = inverse.output_curve(row, dtype=real)(below, np.full(4, right))
            np.testing.assert_allclose(found, 0, atol=5e-6)


@pytest.mark.parametrize("row", INVERTIBLE, ids=name)
@pytest.mark.parametrize("right", [False, True])
def test_no_finite_output_gives_nan(row, right):
    y = np.geomspace(1e-45, 3e38, 4001)
    y = np.concatenate([-y[::-1], y])
    for real in (np.float32, np.float64):
        assert not np.isnan(inverse.output_curve(row, dtype=real)(y, np.full(y.shape, right))).any()


def test_branches():
    found = {row.name: inverse.branches(row) for row in ROWS}
    assert {name for name, count in found.items() if count == 2} == {row.name for row in TURNING}
    assert {row.name for row in TURNING} == {
        *("gelu", "gelu_tanh", "hardswish", "mish", "silu", "quick_gelu")
    }
    assert 0 not in found.values()


@pytest.mark.parametrize("row", FITTED, ids=name)
def test_shipped_fits_are_of_these_rows(row):
    shipped, now = fits.load(row), fits.fit(row)
    assert shipped is not None
    for part in fits.PARTS:
        one, other = getattr(shipped, part), getattr(now, part)
        assert (one is None) == (other is None)
        assert one is None or other.error <= 1.1 * one.error + 1e-10
    np.testing.assert_allclose(
        (shipped.lowest, shipped.start, shipped.cut, shipped.end),
        (now.lowest, now.start, now.cut, now.end),
        rtol=1e-9,
    )


def test_better_than_optiacts():
    # The errors of its fits in fp32, as measured: prior art to beat.
    assert inverse.output_error_bound("gelu", 2.0**-23) < 1.9e-2 / 10
    assert inverse.output_error_bound("silu", 2.0**-23) < 2.9e-3 / 10


def test_a_new_row_is_fitted():
    row = Activation("serf", x * sp.erf(sp.log(1 + sp.exp(x))), stable=x * sp.erf(Softplus(x)))
    assert inverse.branches(row) == 2
    assert inverse.output_error_bound(row, 2.0**-23) <= 2e-4


def test_a_row_without_an_inverse_says_so():
    row = Activation("folds", x**3 - x)
    assert inverse.branches(row) == 0
    with pytest.raises(fits.NoFit, match="folds's slope cannot be had from its output"):
        inverse.from_output(row)
