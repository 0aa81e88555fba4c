"""The input of a frozen convolution is not kept; nothing else changes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxmem.backend import fxmem as backend

from .tools import gradients, leaf, partitioned, partitions

CONVOLUTIONS = {
    "1d": (nn.Conv1d, (9,)),
    "2d": (nn.Conv2d, (9, 10)),
    "3d": (nn.Conv3d, (5, 6, 7)),
    "transposed": (nn.ConvTranspose2d, (9, 10)),
}
SHAPES = {
    "plain": {"kernel_size": 3},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "grouped": {"kernel_size": 3, "groups": 2, "dilation": 2},
}


class Frozen(nn.Module):
    """A trained layer, a value that nothing else needs, and a frozen convolution."""

    def __init__(self, kind=nn.Conv2d, bias=True, **options):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 4, 1) if kind in (nn.Conv2d, nn.ConvTranspose2d) else None
        self.conv = kind(4, 6, **(options or SHAPES["plain"]))
        self.conv.weight.requires_grad_(False)
        self.conv.bias.requires_grad_(bias)

    def forward(self, x):
        return self.conv(self.between(x))

    def between(self, x):
        return x.sin() if self.first is None else F.leaky_relu(self.first(x))


@pytest.mark.parametrize("bias", [True, False])
def test_hit(bias):
    g = partitioned(Frozen(bias=bias), leaf(2, 4, 8, 8), policy={"min_bytes": 0})
    assert g.kept_set == "aten.gt bool[2, 4, 8, 8] 512 -> 64: 1 bit an element"
    assert "new_empty_strided" in g.backward.text


def test_trained_weight_keeps_the_input():
    model = Frozen()
    model.conv.weight.requires_grad_(True)
    g = partitioned(model, leaf(2, 4, 8, 8), policy={"min_bytes": 0})
    assert "float32[2, 4, 8, 8]" in g.kept_set and "new_empty_strided" not in g.backward.text


def test_what_the_caller_holds_is_read_as_it_is():
    model = nn.Conv2d(4, 6, 3)
    model.weight.requires_grad_(False)
    g = partitioned(model, leaf(2, 4, 8, 8))
    assert g.kept_set == "" and "new_empty_strided" not in g.backward.text


def test_input_that_something_else_needs_is_kept_once():
    class Read(Frozen):
        def forward(self, x):
            h = self.first(x).sin()
            return self.conv(h).sum() + (h * h.detach().exp()).sum()

    model, x = Read(), leaf(2, 4, 8, 8)
    for a, b in zip(gradients(model, x), gradients(model, x, policy={}), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_gradients_are_those_of_eager(kind, shape, last):
    make, size = CONVOLUTIONS[kind]
    model, x = Frozen(make, **SHAPES[shape]), torch.randn(2, 4, *size)
    if last and x.dim() > 3:
        x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    x.requires_grad_()
    for a, b in zip(gradients(model, x), gradients(model, x, policy={}), strict=True):
        torch.testing.assert_close(a, b)


def test_symbolic_sizes():
    model = Frozen()
    x = leaf(2, 4, 8, 8)
    (g,) = partitions(model, x, policy={"min_bytes": 0}, dynamic=True)
    assert "new_empty_strided" in g.backward.text and len(g.plan.entries) == 1
    found = gradients(model, x, policy={"min_bytes": 0}, dynamic=True)
    for a, b in zip(gradients(model, x), found, strict=True):
        torch.testing.assert_close(a, b)


def test_trains_under_inductor():
    model, x = Frozen(), leaf(2, 4, 8, 8)
    exact = gradients(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    for t in (x, *model.parameters()):
        t.grad = None
    y = compiled(x)
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
    found = [y.detach(), *(t.grad for t in (x, *model.parameters()) if t.requires_grad)]
    for a, b in zip(exact, found, strict=True):
        torch.testing.assert_close(a, b)
