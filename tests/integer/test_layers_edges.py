"""Integer layers where something is at its edge: no batch, a batch of one or of any size, no
channels, numbers near the largest, numbers that are none, a CPU without an int8 product."""

import platform

import pytest
import torch
import torch.nn.functional as F

from fxmem import integer
from fxmem.integer import product
from fxmem.quantizers import dorefa

from .references import METHODS, conv_operands, drawn, gradients, linear_operands

ALL = (*METHODS, "dorefa:1,2,6", "dorefa:8,8,8")
LAYERS = {
    "linear": (integer.linear, F.linear, (6, 5), (3, 5), ()),
    "conv1d": (integer.conv1d, F.conv1d, (4, 6, 9), (4, 3, 3), (2, 1, 1, 2)),
    "conv2d": (integer.conv2d, F.conv2d, (4, 6, 7, 8), (6, 6, 3, 3), (1, 1, 1, 1)),
    "depthwise": (integer.conv2d, F.conv2d, (4, 6, 7, 8), (6, 1, 3, 3), (1, 1, 1, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", dict.fromkeys(ALL))
def test_without_a_batch_is_a_batch_of_one(method, name):
    layer, _, size, kernel, steps = LAYERS[name]
    x, weight, bias = drawn(*size[1:]), drawn(*kernel), drawn(kernel[0])
    found = []
    for given in (x, x.unsqueeze(0)):
        torch.manual_seed(0)
        y = layer(given, weight, bias, *steps, method=method)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
    assert torch.equal(found[0][0], found[1][0].squeeze(0))
    for alone, batch in zip(*found, strict=True):
        torch.testing.assert_close(alone, batch.view_as(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", [((4, 0), (3, 0)), ((2, 3, 0), (3, 0)), ((4, 5), (0, 5))])
@pytest.mark.parametrize("method", dict.fromkeys(ALL))
def test_without_channels(method, sizes):
    """As F.linear: the bias where nothing comes in, and gradients of zero."""
    x, weight = (drawn(*size) for size in sizes)
    bias = drawn(len(weight))
    found, wanted = integer.linear(x, weight, bias, method), F.linear(x, weight, bias)
    assert torch.equal(found, wanted)
    operands = x, weight, bias
    for one, other in zip(*(gradients(y, operands, y) for y in (found, wanted)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("operand", ["x", "weight"])
@pytest.mark.parametrize("layer", ["linear", "conv2d"])
@pytest.mark.parametrize("method", dict.fromkeys(ALL))
def test_a_nan_stays_one(method, layer, operand):
    """One number that is none is seen in what reads it: stored as an integer it would not be."""
    x, weight, _ = linear_operands() if layer == "linear" else conv_operands()
    x, weight = x.detach(), weight.detach()
    (x if operand == "x" else weight).view(-1)[1] = torch.nan
    y = getattr(integer, layer)(x, weight, method=method)
    assert y.select(-1 if layer == "linear" else 1, 0).isnan().any()


def test_drawn_errors_compiled_for_any_batch():
    """The second batch size makes the graph one of any size."""
    torch._dynamo.reset()
    layer, weight = torch.compile(integer.linear, backend="aot_eager"), drawn(3, 24)
    for batch in (5, 7):
        x = drawn(batch, 24)
        y = layer(x, weight, None, "dorefa:8,8,8")
        assert all(g.isfinite().all() for g in gradients(y, (x, weight), torch.ones_like(y)))


@pytest.mark.parametrize("size", [1e37, 2e38, 3.4e38])
def test_errors_near_the_largest_number(size):
    """Twice the largest is infinite, and so is a sum of codes times the scale alone."""
    grad = torch.tensor([[size, -size / 2, 0.0]])
    value = dorefa.Gradient(8, stochastic=False).value(grad)
    torch.testing.assert_close(value, grad, rtol=0, atol=size / 255 * 1.001)
    x, weight, found = drawn(4, 9), drawn(2, 9).detach(), []
    for scale in (1, size / 2):
        torch.manual_seed(0)
        y = integer.linear(x, weight, None, "dorefa:8,8,8")
        found.append(torch.autograd.grad(y, x, torch.full_like(y, scale))[0] / scale)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("inner", [1, 1024, 1025, 3000])
def test_where_int8_has_no_product_float32_is_exact(inner, monkeypatch):
    monkeypatch.setattr(product, "sums_int8", lambda: False)
    a = torch.randint(-128, 128, (3, inner), dtype=torch.int8)
    b = torch.randint(-128, 128, (inner, 4), dtype=torch.int8)
    a[0], b[:, 0], b[:, 1] = -128, -128, 127
    found = product.int_mm(a, b)
    assert found.dtype == torch.int32 and torch.equal(found.long(), a.long() @ b.long())


@pytest.mark.parametrize("isa", ["AVX2", "avx512_core"])
def test_a_capped_onednn_is_not_asked(isa, monkeypatch):
    """It would saturate: 127 * 127 * 2 is more than 16 bits hold."""
    if platform.machine() != "x86_64":
        pytest.skip("the variable that caps oneDNN, ONEDNN_MAX_CPU_ISA, is read on x86 alone")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert not product.sums_int8.__wrapped__()
