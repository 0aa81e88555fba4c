"""Quantizers where torch.func, second derivatives and tensors of few dimensions meet them."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call, grad, jvp, vmap

from fxmem.quantizers import Binary, XnorWeight, dorefa, quantize_gradient, tqt, wageubn

CALLS = {
    "Binary": Binary(masked=True),
    "XnorWeight": XnorWeight(),
    "WeightLevels": dorefa.weight(2),
    "Direct": wageubn.Direct(8),
    "quantize_gradient": partial(quantize_gradient, quantizer=wageubn.Shift()),
    "tqt": partial(tqt, log2_t=torch.zeros(())),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_torch_func_is_refused_by_name_and_may_map(name):
    call, x = CALLS[name], torch.randn(3, 4, 5)
    for differentiate in (
        lambda: grad(lambda x: call(x).sum())(x),
        lambda: vmap(grad(lambda x: call(x).sum()))(x),
        lambda: jvp(call, (x,), (x,)),
    ):
        with pytest.raises(RuntimeError, match=rf"^{name} is differentiated by backward\(\) and"):
            differentiate()
    assert torch.equal(vmap(call)(x), torch.stack([call(part) for part in x]))
    layer = torch.nn.Linear(5, 5)
    found = grad(lambda b: functional_call(layer, {"weight": call(x[0]), "bias": b}, x[1]).sum())
    assert torch.equal(found(torch.zeros(4)), torch.full((4,), 4.0))


@pytest.mark.parametrize(
    "quantizer", [dorefa.weight(2), dorefa.weight(1), XnorWeight(), XnorWeight(1, True)], ids=str
)
def test_second_derivatives_are_those_of_the_published_gradient(quantizer):
    w = torch.randn(4, 3, dtype=torch.float64)
    w[1, 2] = -w.abs().max() - 0.5
    leaf, g = w.clone().requires_grad_(), torch.randn_like(w).requires_grad_()
    assert gradcheck(quantizer.gradient, (g, leaf))
    (first,) = torch.autograd.grad(quantizer(leaf), leaf, g, create_graph=True)
    found = torch.autograd.grad(first.sum(), (g, leaf), allow_unused=True)
    (wanted,) = torch.autograd.grad(quantizer.gradient(g, leaf).sum(), g)
    torch.testing.assert_close(found[0], wanted)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("filters", [0, 1])
def test_xnor_of_few_dimensions(filters, exact):
    """Of 0 and 1 dimension as of 2: the dimensions that are not there have size 1."""
    quantizer = XnorWeight(filters, exact)
    w, g = torch.randn(2, 6)
    for x, slope, shape in ((w, g, (6, 1)), (w[0], g[0], (1, 1))):
        assert torch.equal(quantizer.value(x), quantizer.value(x.view(shape)).view(x.shape))
        found = quantizer.gradient(slope, x)
        assert found.shape == x.shape
        wanted = quantizer.gradient(slope.view(shape), x.view(shape))
        torch.testing.assert_close(found, wanted.view(x.shape))
        assert torch.equal(quantizer.pack(x).values(), quantizer.value(x))
