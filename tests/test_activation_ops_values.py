"""The forwards' accuracy: within one unit in the last place of the true value, in every dtype.

Torch's own forward is further off in places (GELU's left tail, tanhshrink near 0, mish, and in
float32 whatever it computes in float32), so the judge is the truth and not torch.
"""

import math

import pytest
import torch
from activation_samples import OTHERS, ROWS, calls, few_bit_arguments

from fxmem import ops
from fxmem.ops.activations_functions import evaluate

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
DIGITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11, torch.float64: 53}
HALVES = (torch.bfloat16, torch.float16)
# CUDA evaluates float32 in float32: its exp, log1p and normcdf err by up to 5 units, and what is
# made of them by a few more.
ALLOWED = {("cuda", torch.float32): 16.0}


def every_half(dtype):
    """All finite values of a 16-bit type."""
    x = torch.arange(2**16).to(torch.int32).to(torch.int16).view(dtype)
    return x[x.isfinite()]


def float32_points():
    """Every exponent, dense middles and tails, subnormals."""
    bits = torch.randint(-(2**31), 2**31, (1 << 18,)).to(torch.int32)
    anywhere = bits.view(torch.float32)
    dense = [torch.linspace(-end, end, 1 << 17) for end in (1, 8, 20, 120)]
    tiny = torch.linspace(-1, 1, 999) * torch.finfo(torch.float32).tiny
    x = torch.cat([anywhere, *dense, tiny, torch.randn(1 << 17)])
    return x[x.isfinite()]


def unit(truth, dtype):
    """The unit in the last place at float64 `truth`."""
    _, exponent = torch.frexp(truth)
    lowest = math.frexp(torch.finfo(dtype).smallest_normal)[1] - DIGITS[dtype]
    return torch.ldexp(torch.ones_like(truth), (exponent - DIGITS[dtype]).clamp(min=lowest))


def worst(y, truth, allowed):
    """The largest error in units; where the truth rounds to infinity, y must be that."""
    kind = torch.finfo(y.dtype)
    infinite = truth.abs() >= kind.max * (1 + kind.eps / 4)
    assert torch.equal(y[infinite].double(), torch.sign(truth[infinite]) * math.inf)
    error = (y.double() - truth).abs() / unit(truth, y.dtype)
    return error[~infinite].max().item()


def forwards(x, name, parameters):
    """What each operator gives as f(x)."""
    yield "few_bit", ops.few_bit(x, *few_bit_arguments(name, parameters, 2))[0]
    yield "gated", ops.gated(x, torch.ones_like(x), name, parameters)
    if name not in ("tanhshrink",) or x.dtype != torch.float64:
        try:
            yield "from_output", ops.from_output(x, name, parameters)[0]
        except RuntimeError as error:
            assert "whose slope follows from its output" in str(error)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name, parameters", calls())
def test_within_one_unit_of_the_true_value(name, parameters, dtype, device):
    x = (float32_points() if dtype == torch.float32 else every_half(dtype)).to(device)
    truth = evaluate(name, "value", parameters, x.double())
    allowed = ALLOWED.get((device, dtype), 1.0)
    for op, y in forwards(x, name, list(parameters)):
        assert worst(y, truth, allowed) <= allowed, op


def true_values(name, parameters, x):
    """f at float64 numbers from the textbook definition, in 3400 bits: it cancels."""
    import mpmath
    import sympy

    from fxmem.activations.table import x as symbol

    row = ROWS[name]
    function = sympy.lambdify([symbol, *row.symbols], row.definition, "mpmath")
    with mpmath.workprec(3400):
        exact = [mpmath.mpf(p) for p in parameters]
        return [mpmath.re(function(mpmath.mpf(v), *exact)) for v in x.tolist()]


def float64_error(got, truth):
    import mpmath

    with mpmath.workprec(200):
        exponent = mpmath.frexp(truth)[1] if truth else -1074
        return float(abs(mpmath.mpf(got) - truth) / mpmath.mpf(2) ** max(exponent - 53, -1074))


@pytest.mark.parametrize("name, parameters", calls())
def test_float64_is_within_one_unit_of_the_true_value(name, parameters):
    if "cpu" not in ops.NATIVE:
        pytest.skip("the reference computes float64 in float64, which is not enough for a unit")
    spread = torch.randn(40, dtype=torch.float64) * torch.exp2(torch.linspace(-1060, 4, 40))
    dense = torch.linspace(-38, 38, 41, dtype=torch.float64)
    x = torch.cat([torch.randn(30, dtype=torch.float64) * 3, dense, spread])
    y = ops.few_bit(x, *few_bit_arguments(name, parameters, 2))[0]
    pairs = zip(y.tolist(), true_values(name, parameters, x), strict=True)
    assert max(float64_error(got, truth) for got, truth in pairs) <= 1


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.torch])
def test_nan_and_infinities_are_torchs_own(name, dtype):
    row = ROWS[name]
    function = getattr(torch.nn.functional, row.torch, None) or getattr(torch, row.torch)
    x = torch.tensor([math.nan, math.inf, -math.inf] * 400, dtype=dtype)
    given = row.defaults if name == "threshold" else ()
    wanted = function(x, *given, **dict(row.torch_keywords))
    for _, y in forwards(x, name, list(row.defaults)):
        assert y[0].isnan()
        # Where torch gives NaN for an infinity, the limit is right as well.
        assert torch.equal(
            torch.where(wanted.isnan(), wanted.nan_to_num(), y)[1:], wanted.nan_to_num()[1:]
        ), name


@pytest.mark.parametrize("name", ["relu", "threshold", "hardtanh", "relu6", "hardshrink"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_values_that_need_no_arithmetic_are_torchs_bit_for_bit(name, dtype):
    x = float32_points() if dtype == torch.float32 else every_half(dtype)
    row = ROWS[name]
    given = row.defaults if name == "threshold" else ()
    wanted = getattr(torch.nn.functional, row.torch)(x, *given)
    for op, y in forwards(x, name, list(row.defaults)):
        assert torch.equal(y, wanted), op


def test_other_parameters_are_tested():
    assert OTHERS.keys() == {name for name, row in ROWS.items() if row.parameters}
