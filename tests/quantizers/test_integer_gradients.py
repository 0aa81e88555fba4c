"""The gradients of quantizers: straight through, masked, and the published chains."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from fxmem.measure import kept
from fxmem.quantizers import (
    Binary,
    XnorWeight,
    dorefa,
    input_scale,
    log2_threshold,
    quantize_gradient,
    tqt,
    tqt_pack,
    wageubn,
)

from . import formulas
from .samples import QUANTIZERS


def gradient(function, x, grad):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad)[0]


STRAIGHT = [q for q in QUANTIZERS if not q.needs_input and not isinstance(q, dorefa.Activation)]


@pytest.mark.parametrize("quantizer", STRAIGHT, ids=str)
def test_straight_through(quantizer):
    x, grad = 3 * torch.randn(2, 8, 12)
    assert torch.equal(gradient(quantizer, x, grad), grad)
    assert torch.equal(quantizer(x), quantizer.value(x))


EDGES = torch.tensor([-1.5, -1.0, -0.0, 0.0, 0.5, 1.0, 1.0000001, 2.0])


def test_masked_gradients_and_their_edges():
    ones = torch.ones(8)
    assert gradient(Binary(masked=True), EDGES, ones).tolist() == [0, 1, 1, 1, 1, 1, 0, 0]
    assert gradient(Binary(masked=True, scale=0.5), EDGES, ones).tolist() == [
        0,
        0,
        1,
        1,
        1,
        0,
        0,
        0,
    ]
    assert gradient(dorefa.Activation(2), EDGES, ones).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert Binary().value(EDGES).tolist() == [-1, -1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("quantizer", [Binary(masked=True), dorefa.Activation(2)], ids=str)
def test_one_bit_an_element_is_kept(quantizer):
    x = torch.randn(64, 33, requires_grad=True)
    assert kept(lambda: quantizer(x)).nbytes == 64 * 33 / 8
    assert kept(lambda: wageubn.Shift(8)(x)).nbytes == 0


def test_an_infinite_gradient_is_masked_out():
    grad = torch.tensor([math.inf, 2.0])
    assert gradient(Binary(masked=True), torch.tensor([3.0, 0.1]), grad).tolist() == [0, 2]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_weights_differentiate_tanh_and_maximum(bits):
    """Autograd through the formula, with quantize_k's rounding taken as the identity."""
    w = torch.randn(6, 4, dtype=torch.float64)
    w[1, 2] = -w.abs().max() - 0.5
    w[5, 0] = -w[1, 2]  # two elements share the maximum
    grad = torch.randn_like(w)

    def identity(x):
        t = x.tanh()
        return 2 * (t / (2 * t.abs().amax()) + 0.5) - 1

    wanted = gradient(identity, w, grad)
    found = gradient(dorefa.weight(bits), w, grad)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert gradcheck(identity, torch.randn(4, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize(("size", "slope"), [(1, 1e36), (1e-30, 1), (1e-20, 1e5)])
def test_dorefa_weights_and_slopes_near_the_ends_of_float32(size, slope):
    """The gradient is there where the formula's own is."""
    w, grad = torch.randn(2, 40, 50) * torch.tensor([size, slope]).view(2, 1, 1)
    found = gradient(dorefa.weight(4), w, grad)
    wanted = gradient(lambda w: w.tanh() / w.tanh().abs().max(), w.double(), grad.double())
    torch.testing.assert_close(
        found.double(), wanted, rtol=1e-4, atol=1e-6 * wanted.abs().max().item()
    )


def test_dorefa_weights_of_zero():
    found = gradient(dorefa.weight(2), torch.zeros(3), torch.ones(3))
    assert found.tolist() == [1, 1, 1]


def test_xnor_gradient_as_published():
    w, grad = torch.randn(2, 5, 3, 2, 2) * 0.8
    n, alpha = 12, w.abs().mean((1, 2, 3), keepdim=True)
    wanted = grad * (1 / n + alpha * (w.abs() <= 1))
    torch.testing.assert_close(gradient(XnorWeight(), w, grad), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("filters", [0, 1])
def test_xnor_exact_chain(filters):
    """Autograd through alpha, with the sign's derivative taken as that of clip(W, -1, 1)."""
    w, grad = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    others = [d for d in range(3) if d != filters]

    def chain(x):
        clipped = x.clamp(-1, 1)
        sign = torch.where(x >= 0, 1.0, -1.0).double()
        through = sign + clipped - clipped.detach()
        return through * x.abs().mean(others, keepdim=True)

    found = gradient(XnorWeight(filters, exact=True), w, grad)
    torch.testing.assert_close(found, gradient(chain, w, grad), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_input_scale_is_the_mean_over_each_window(rank):
    kernel, x = (3, 2, 2)[:rank], torch.randn(2, 5, *(7, 6, 5)[:rank])
    ones = torch.full((1, 5, *kernel), 1 / 5 / math.prod(kernel))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    wanted = convolve(x.abs(), ones, stride=2, padding=1)
    torch.testing.assert_close(input_scale(x, kernel, 2, 1), wanted)
    torch.testing.assert_close(input_scale(x), x.abs().mean(-1, keepdim=True))


def test_backward_only():
    x, grad = torch.randn(2, 6, 9)
    for quantizer in (wageubn.Shift(8), wageubn.Flag(8), wageubn.Direct(15)):
        found = gradient(lambda t, q=quantizer: quantize_gradient(t, q), x, grad)
        assert torch.equal(found, quantizer.value(grad))
        assert torch.equal(quantize_gradient(x, quantizer), x)
    draw = torch.Generator().manual_seed(4)
    found = gradient(lambda t: quantize_gradient(t, wageubn.Constant(), draw), x, grad)
    wanted = wageubn.Constant().value(grad, torch.Generator().manual_seed(4))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("log2_t", [-1.3, 0.0, 1.0, 2.01])
def test_tqt_is_the_papers(bits, signed, log2_t):
    s = 2.0 ** (math.ceil(log2_t) - (bits - 1 if signed else bits))
    ties = (torch.arange(-9, 9).double() + 0.5) * s
    x = torch.cat([torch.randn(200).double() * 2, ties, torch.tensor([-50.0, 0, 50.0])])
    grad = torch.randn_like(x)
    value, of_x, of_t = formulas.tqt(x.numpy(), log2_t, bits, signed)
    leaf = x.clone().requires_grad_()
    threshold = torch.tensor(log2_t, dtype=torch.float64, requires_grad=True)
    y = tqt(leaf, threshold, bits, signed)
    y.backward(grad)
    np.testing.assert_array_equal(y.detach().numpy(), value)
    np.testing.assert_array_equal(leaf.grad.numpy(), grad.numpy() * of_x)
    torch.testing.assert_close(threshold.grad.item(), float((grad.numpy() * of_t).sum()))
    packed = tqt_pack(x.float(), threshold, bits, signed)
    assert torch.equal(packed.values(), tqt(x.float(), threshold, bits, signed))
    assert math.log2(packed.scale.item()).is_integer()


def test_tqt_threshold_for_each_channel():
    x, log2_t = torch.randn(6, 3, 4), torch.randn(3, 1, requires_grad=True)
    grad = torch.randn_like(x)
    tqt(x, log2_t, 4).backward(grad)
    for c in range(3):
        one = log2_t.detach()[c].requires_grad_()
        tqt(x[:, c], one, 4).backward(grad[:, c])
        torch.testing.assert_close(log2_t.grad[c], one.grad)


def test_tqt_learns_its_threshold():
    """From 8 times too wide and 8 times too narrow it finds about what fits a normal tensor."""
    x = torch.randn(4096)
    for start in (-2.0, 4.0):
        log2_t = torch.tensor(start, requires_grad=True)
        optimizer = torch.optim.Adam([log2_t], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            (tqt(x, log2_t, 4) - x).square().mean().backward()
            optimizer.step()
        error = (tqt(x, log2_t, 4) - x).square().mean().item()
        best = min((tqt(x, torch.tensor(float(k)), 4) - x).square().mean().item() for k in range(5))
        assert error == best


def test_tqt_shows_a_threshold_that_diverged():
    x = torch.randn(3, 4)
    log2_t = torch.tensor([0.0, math.nan, math.inf, 1.0])
    found = tqt(x, log2_t)
    assert found.isnan().any(0).tolist() == [False, True, False, False]
    assert (found[:, 2] == 0).all()


def test_tqt_refuses_and_starts():
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 16; got 1"):
        tqt(torch.ones(2), torch.zeros(()), bits=1)
    x = torch.tensor([-4.0, 0.0, 1.0, 3.0])
    assert log2_threshold(x) == 2
    torch.testing.assert_close(log2_threshold(x, 3), (3 * x.std(correction=0)).log2())
    assert log2_threshold(torch.zeros(3)) == 0


COMPILED = {
    "binary": Binary(masked=True),
    "DoReFa weights": dorefa.weight(2),
    "DoReFa activations": dorefa.Activation(4),
    "XNOR weights": XnorWeight(),
    "direct": wageubn.Direct(8),
    "flag": wageubn.Flag(8),
    "TQT": partial(tqt, log2_t=torch.zeros(()), bits=8),
}


# Dynamo itself makes an object of each autograd function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", COMPILED)
def test_under_torch_compile(name):
    x, quantizer = torch.randn(6, 8, requires_grad=True), COMPILED[name]
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    (found,), (wanted,) = (
        torch.autograd.grad(function(x).square().sum(), x) for function in (compiled, quantizer)
    )
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(found, wanted)
