"""Small blocks and chains for the tests of reversible modules."""

import copy

import torch
from torch import nn

from fxmem.nn.reversible import (
    AdditiveCoupling,
    AffineCoupling,
    FunctionCoupling,
    MomentumCoupling,
    ReversibleSequential,
)

# RevLib's own example of a pair, with the inverse that its first README had wrong.
AVERAGE = FunctionCoupling(lambda a, f: 0.6 * a + 0.4 * f, lambda y, f: (y - 0.4 * f) / 0.6)
# The slope for f depends on f, so that a gradient taken at the wrong value is seen.
CURVED = FunctionCoupling(lambda a, f: 1.5 * a + f * f, lambda y, f: (y - f * f) / 1.5)
COUPLINGS = {
    "additive": AdditiveCoupling(),
    "affine": AffineCoupling(),
    "momentum": MomentumCoupling(0.7),
    "average": AVERAGE,
    "curved": CURVED,
}


def linear(width, out=None):
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out or width))


class Conv(nn.Module):
    """Convolution, batch norm and dropout; what it gives can be scaled by an argument."""

    def __init__(self, channels, dropout=0.3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, scale=None):
        y = self.out(self.dropout(self.norm(self.conv(x)).relu()))
        return y if scale is None else y * scale


def chains(blocks, memories=("none", "checkpoint", "reversible"), **options):
    """The same chain under each way to keep memory, of copies of the blocks."""
    return [
        ReversibleSequential(*copy.deepcopy(blocks), memory=memory, **options)
        for memory in memories
    ]


def trained(model, x, *args, **kwargs):
    """Output, and gradients of input, parameters and tensor arguments, after one backward."""
    x = x.detach().clone().requires_grad_()
    args = [a.detach().clone().requires_grad_() for a in args]
    kwargs = {name: a.detach().clone().requires_grad_() for name, a in kwargs.items()}
    model.zero_grad()
    torch.manual_seed(7)
    out = model(x, *args, **kwargs)
    (out.float() ** 2).sum().backward()
    given = [x, *args, *kwargs.values(), *model.parameters()]
    return [out.detach(), *(t.grad for t in given)]


def assert_close(found, wanted, rtol=1e-5):
    """Each tensor is within `rtol` of the largest value of the wanted one, element by element."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=rtol * largest)
