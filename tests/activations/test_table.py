"""Every row: its stable form is its definition, its slope the derivative, and torch agrees."""

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fxmem.activations import calculus
from fxmem.activations.table import TABLE

from .exact import CASES, DIGITS, ROWS, STEPWISE, definition, in_digits, name

MAGNITUDES = (1e-6, 0.01, 0.3, 0.99, 1.01, 2.2, 2.9, 3.1, 5.9, 6.1, 9.5, 19.9, 36.0, 90.0, 200.0)
POINTS = [mp.mpf(0), *(sign * mp.mpf(m) for m in MAGNITUDES for sign in (-1, 1))]
# tanhshrink's continued fraction is cut off below the precision of float64; the rest is exact.
TRUNCATED = {"tanhshrink": 1e-18}
# torch's hardsigmoid multiplies by float32's sixth in float64 too.
ROUNDED = {"hardsigmoid": 3e-8}


def close(found, wanted, relative):
    return abs(found - wanted) <= relative * abs(wanted) + mp.mpf("1e-300")


@pytest.mark.parametrize(("row", "parameters"), CASES, ids=name)
def test_stable_form_is_the_definition(row, parameters):
    with mp.workdps(DIGITS):
        stable = in_digits(calculus.value(row), row, parameters)
        for point in POINTS:
            wanted = definition(row, parameters)(point)
            assert close(stable(point), wanted, TRUNCATED.get(row.name, 1e-60)), point


@pytest.mark.parametrize(("row", "parameters"), CASES, ids=name)
def test_slope_is_the_derivative(row, parameters):
    with mp.workdps(DIGITS):
        slope = in_digits(calculus.evaluated_slope(row), row, parameters)
        kinks = calculus.kinks(row, parameters)
        for point in POINTS:
            if min((abs(point - kink) for kink in kinks), default=1) > 1e-3:
                wanted = mp.diff(definition(row, parameters), point, h=mp.mpf("1e-80"))
                assert abs(slope(point) - wanted) <= mp.mpf("1e-60") * max(1, abs(wanted)), point


@pytest.mark.parametrize(("row", "parameters"), CASES, ids=name)
def test_float32_is_finite_and_right(row, parameters):
    points = np.concatenate([np.linspace(-200, 200, 40_001), np.linspace(-5, 5, 10_001)])
    points = points.astype(np.float32)
    for expr in (calculus.value(row), calculus.evaluated_slope(row)):
        single = calculus.curve(expr, row, parameters, np.float32)(points)
        double = calculus.curve(expr, row, parameters)(points)
        inside = np.abs(double) < np.finfo(np.float32).max
        assert not np.isnan(single).any()
        error = np.abs(single - double)[inside] / np.maximum(np.abs(double), 1)[inside]
        assert error.max() < (2e-5 if row.name == "exp" else 2e-6)  # e^x has x roundings


@pytest.mark.parametrize("row", ROWS, ids=name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes(row, dtype):
    largest = np.finfo(dtype).max
    slope = calculus.curve(calculus.evaluated_slope(row), row, dtype=dtype)
    value = calculus.curve(calculus.value(row), row, dtype=dtype)
    assert not np.isnan(slope(np.array([-np.inf, -largest, largest, np.inf]))).any()
    assert not np.isnan(value(np.array([-largest, largest]))).any()
    assert np.isnan(value(np.array(np.nan)))


def torch_function(row, parameters):
    function = getattr(F, row.torch, None) or getattr(torch, row.torch)
    given = dict(zip((name for name, _ in row.parameters), parameters, strict=True))
    return lambda x: function(x, **given, **dict(row.torch_keywords))


IN_TORCH = [case for case in CASES if case[0].torch]


@pytest.mark.parametrize(("row", "parameters"), IN_TORCH, ids=name)
def test_value_and_slope_are_those_of_torch(row, parameters):
    x = torch.linspace(-30, 30, 30_001, dtype=torch.float64, requires_grad=True)
    y = torch_function(row, parameters)(x)
    y.sum().backward()
    points = x.detach().numpy()
    values = calculus.value_curve(row, parameters)(points)
    slopes = calculus.slope_curve(row, parameters)(points)
    np.testing.assert_allclose(values, y.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(slopes, x.grad.numpy(), ROUNDED.get(row.name, 1e-11), 1e-13)


@pytest.mark.parametrize(("row", "parameters"), IN_TORCH, ids=name)
def test_slope_at_kinks_is_that_of_torch(row, parameters):
    kinks = np.array([*calculus.kinks(row, parameters), 0.0])
    points = np.concatenate([kinks, np.nextafter(kinks, 9), np.nextafter(kinks, -9)])
    x = torch.from_numpy(points).requires_grad_()
    torch_function(row, parameters)(x).sum().backward()
    slopes = calculus.slope_curve(row, parameters)(points)
    np.testing.assert_allclose(slopes, x.grad.numpy(), ROUNDED.get(row.name, 1e-8), 1e-13)


@pytest.mark.parametrize(("row", "parameters"), CASES, ids=name)
def test_codes_of_steps(row, parameters):
    if row not in STEPWISE:
        assert calculus.step_slopes(row) == ()
        return
    points = np.linspace(-8, 8, 1601)
    codes = calculus.curve(calculus.step_code(row), row, parameters)(points).astype(int)
    levels = np.array(calculus.step_levels(row, parameters))
    slopes = calculus.slope_curve(row, parameters)(points)
    np.testing.assert_array_equal(levels[codes], slopes)
    assert len(levels) == 2


def test_facts_that_follow():
    even = {row.name for row in ROWS if calculus.is_even(row)}
    assert even == {
        *("tanh", "sigmoid", "softsign", "tanhshrink"),
        *("hardsigmoid", "hardtanh", "hardshrink", "softshrink"),
    }
    turning = {row.name: calculus.turning_points(row) for row in ROWS}
    assert {name for name, points in turning.items() if points} == {
        *("gelu", "gelu_tanh", "hardswish", "mish", "silu", "quick_gelu")
    }
    # Where OptiActs has them.
    assert turning["gelu"] == pytest.approx((-0.751791524693564,), abs=1e-14)
    assert turning["silu"] == pytest.approx((-1.278464542761074,), abs=1e-14)
    assert turning["hardswish"] == pytest.approx((-1.5,), abs=1e-14)
    assert not calculus.is_even(TABLE["hardtanh"], (-1.0, 2.0))


def test_gated_rows_are_their_gate_times_u():
    gated = {row.name: row for row in TABLE.values() if row.gate}
    assert set(gated) == {"swiglu", "geglu"}
    for row in gated.values():
        (u,) = row.definition.free_symbols - TABLE[row.gate].definition.free_symbols
        assert (row.definition / u - TABLE[row.gate].definition).simplify() == 0
