"""Gradients of the activation operators: exact, within the stated bound, or refused."""

import math

import pytest
import torch
from activation_samples import (
    DTYPES,
    INVERTIBLE,
    STEPWISE,
    coding,
    kink_free,
    patterns,
    true_slope,
    true_value,
)
from activations.exact import CASES
from samples import LAYOUTS, SEEDS

from fxmem import ops
from fxmem.activations import calculus, inverse
from fxmem.activations.table import TABLE

from .test_ops_samples import DEVICES

fxmem = torch.ops.fxmem
CLOSED = [(name, values) for name, values in INVERTIBLE if not inverse.fitted(TABLE[name])]
DEFAULTS = [(name, values) for name, values in INVERTIBLE if values == TABLE[name].defaults]


def gradient(function, *inputs, grad=None):
    """The gradients of the inputs, which stay as they are laid out."""
    leaves = [i.detach().requires_grad_() for i in inputs]
    y = function(*leaves)
    return torch.autograd.grad(y, leaves, torch.ones_like(y) if grad is None else grad)


def from_output(name, values):
    return lambda x: ops.from_output(x, name, values)[0]


def slopes_from_output(name, values, x):
    return gradient(from_output(name, values), x)[0]


def away_from_kinks(name, values, n=61):
    """Float64 points, none of which a finite difference carries over a kink."""
    x = torch.linspace(-6.03, 6.04, n, dtype=torch.float64)
    borders = torch.tensor([*calculus.kinks(TABLE[name], values), 9.0], dtype=torch.float64)
    return x[((x[:, None] - borders).abs() > 1e-3).all(1)].requires_grad_()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_bit_gradient_is_the_level_times_the_incoming_one(dtype, device):
    x, grad = (torch.randn(3077, device=device).to(dtype) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    for row, values in CASES:
        code = coding(row.name, values)
        _, codes = ops.few_bit(x, *code)
        index = ops.unpack(codes, x.shape, (1,), code[4], torch.uint8).long()
        level = torch.tensor(code[3], dtype=torch.float64, device=device).to(wide)[index]
        (found,) = gradient(lambda v, code=code: ops.few_bit(v, *code)[0], x, grad=grad)
        assert torch.equal(found, (grad.to(wide) * level).to(dtype)), row.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_that_are_laid_out_otherwise(layout, device):
    x = LAYOUTS[layout](torch.randn(12, 10, 6, 4, device=device))
    strange = [
        torch.randn((), device=device).expand(x.shape),
        torch.randn(*x.shape, 2, device=device)[..., 0],
        torch.randn(x.shape[::-1], device=device).permute(*range(x.dim())[::-1]),
    ]
    seed = torch.tensor([SEEDS[1]], device=device)
    up = torch.randn(x.shape, device=device)
    calls = {
        "nearest": lambda v: ops.few_bit(v, *coding("silu"))[0],
        "drawn": lambda v: ops.few_bit(v, *coding("mish", drawn=True), seed=seed)[0],
        "output": from_output("gelu", ()),
        "gated": lambda v: ops.gated(v, up, "silu"),
    }
    for name, call in calls.items():
        (slope,) = gradient(call, x)
        for grad in strange:
            (found,) = gradient(call, x, grad=grad)
            torch.testing.assert_close(found, slope * grad, rtol=3e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_from_the_output_is_within_the_stated_bound(dtype, device):
    x, eps = patterns(dtype).to(device), torch.finfo(dtype).eps
    for name, values in DEFAULTS:
        slope, y = true_slope(name, values, x), true_value(name, values, x)
        room = torch.finfo(dtype).max
        # Results that are subnormal have fewer digits than the bound speaks of.
        kept = (
            (y.abs() < room)
            & (slope.abs() < room)
            & ((y.abs() > torch.finfo(dtype).tiny) | (y == 0))
        )
        kept &= kink_free(TABLE[name], x, eps)
        found = slopes_from_output(name, values, x).double()
        error = ((found - slope).abs() / slope.abs().clamp(1))[kept].max().item()
        assert error <= inverse.output_error_bound(name, eps) + eps / 2, name


@pytest.mark.parametrize("device", DEVICES)
def test_float32_gradient_from_the_output_is_good_to_2e_4_and_mostly_to_1e_5(device):
    points = torch.linspace(-30, 30, 300_007, device=device)
    for name, values in DEFAULTS:
        x = points[kink_free(TABLE[name], points, torch.finfo(points.dtype).eps)]
        slope = true_slope(name, values, x)
        error = (slopes_from_output(name, values, x) - slope).abs() / slope.abs().clamp(1)
        near = torch.zeros_like(x, dtype=torch.bool)
        for turn in calculus.turning_points(TABLE[name]):
            near |= (x - turn).abs() < 0.02
        assert error.max() <= 2e-4 and error[~near].max() <= 1e-5, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_finite_input_gives_nan(dtype, device):
    x = patterns(dtype).to(device)
    x = x[x.isfinite()]
    ones = torch.ones_like(x)
    for row, values in CASES:
        code = coding(row.name, values)
        assert not gradient(lambda v, code=code: ops.few_bit(v, *code)[0], x)[0].isnan().any()
        pair = gradient(lambda g, u, r=row, p=values: ops.gated(g, u, r.name, p), x, ones)
        assert not any(part.isnan().any() for part in pair), row.name
    for name, values in INVERTIBLE:
        assert not slopes_from_output(name, values, x).isnan().any(), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_are_exact_and_nan_propagates(dtype, device):
    far = [100.0, 3e4, torch.finfo(dtype).max, math.inf]
    x = torch.tensor([*far, *(-v for v in far)], dtype=dtype, device=device)
    for name, values in INVERTIBLE:
        wanted, found = true_slope(name, values, x), slopes_from_output(name, values, x)
        flat = ((wanted == 0) | (wanted == 1)) & ~true_value(name, values, x).isnan()
        # The limit of selu, which is -1.758…, is none that a dtype holds.
        room = torch.finfo(dtype).eps if name == "selu" else 0.0
        assert ((found.double() - wanted).abs() <= room)[flat].all(), name
        nan = torch.full((3,), math.nan, dtype=dtype, device=device)
        assert ops.from_output(nan, name, values)[0].isnan().all()
        if not calculus.step_slopes(TABLE[name]):
            assert slopes_from_output(name, values, nan).isnan().all(), name


@pytest.mark.parametrize("case", CLOSED, ids=str)
def test_gradcheck_from_output(case):
    assert torch.autograd.gradcheck(from_output(*case), away_from_kinks(*case))


@pytest.mark.parametrize("case", STEPWISE, ids=str)
def test_gradcheck_stepwise(case):
    code = coding(*case)
    assert torch.autograd.gradcheck(lambda x: ops.few_bit(x, *code)[0], away_from_kinks(*case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].name}{case[1]}")
def test_gradcheck_gated(case):
    gate = away_from_kinks(case[0].name, case[1])
    up = torch.randn_like(gate).requires_grad_()
    assert torch.autograd.gradcheck(lambda g, u: ops.gated(g, u, case[0].name, case[1]), (gate, up))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_gradients_are_true(dtype, device):
    gate, up, grad = (torch.randn(3077, device=device).to(dtype) * 2 for _ in range(3))
    for row, values in CASES:
        found = gradient(
            lambda g, u, r=row, p=values: ops.gated(g, u, r.name, p), gate, up, grad=grad
        )
        g = grad.double()
        wanted = (
            g * up.double() * true_slope(row.name, values, gate),
            g * true_value(row.name, values, gate),
        )
        eps = max(torch.finfo(dtype).eps, 1e-14)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=eps, atol=min(eps, 2e-6), msg=row.name)


SECOND = {
    "from_output": lambda x: ops.from_output(x, "gelu")[0],
    "gated": lambda x: ops.gated(x, torch.ones_like(x), "silu"),
}


@pytest.mark.parametrize("call", SECOND)
def test_second_derivatives_are_refused_in_a_sentence(call):
    x, grad = (torch.randn(40, requires_grad=True) for _ in range(2))
    sentence = f"fxmem::{call}_backward has no derivative: it is itself a backward"
    for loss in (SECOND[call](x).sum(), SECOND[call](x).square().sum()):
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RuntimeError, match=sentence):
            first.sum().backward()
    (first,) = torch.autograd.grad(SECOND[call](x), x, grad, create_graph=True)
    with pytest.raises(RuntimeError, match=sentence):
        torch.autograd.grad(first.sum(), grad)


@pytest.mark.parametrize("call", [torch.sigmoid, torch.Tensor.sum, torch.Tensor.exp])
def test_codes_do_not_lead_back_to_the_input(call):
    """So that a second derivative would miss what it owes to the slope: not even begun."""
    x, weight = torch.randn(40), torch.randn(40, requires_grad=True)
    y = call(ops.few_bit(x * weight, *coding("gelu"))[0]).sum()
    with pytest.raises(RuntimeError, match="few_bit has no gradient with create_graph=True: what"):
        torch.autograd.grad(y, weight, create_graph=True)
    y.backward()


def test_gate_alone_or_up_alone():
    gate, up = torch.randn(50), torch.randn(50)
    both = gradient(lambda g, u: ops.gated(g, u, "gelu"), gate, up)
    assert torch.equal(gradient(lambda g: ops.gated(g, up, "gelu"), gate)[0], both[0])
    assert torch.equal(gradient(lambda u: ops.gated(gate, u, "gelu"), up)[0], both[1])


def test_an_activation_without_parameters_to_train_keeps_nothing():
    y, codes = ops.few_bit(torch.randn(9), *coding("gelu"))
    assert y.grad_fn is None and not codes.requires_grad
