"""State that is Python's: its generator and numpy's are put back, what else changes is said."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from fxmem.nn.reversible import FunctionCoupling, ReversibleSequential

from .blocks import assert_close, chains, linear, trained

KEPT = ("none", "reversible", "checkpoint")


class Skipped(nn.Module):
    """A layer that is left out at random."""

    def __init__(self, draw):
        super().__init__()
        self.linear, self.draw = linear(3), draw

    def forward(self, x):
        return self.linear(x) if self.draw() < 0.5 else x * self.draw()


def drawn(chain, x):
    random.seed(3)
    np.random.seed(4)
    found = trained(chain, x)
    gradients = [torch.zeros(()) if g is None else g for g in found[1:]]
    return [found[0], *gradients, torch.tensor([random.random(), np.random.rand()])]


@pytest.mark.parametrize(
    "draw", [lambda: random.random(), lambda: np.random.rand()], ids=["python", "numpy"]
)
def test_generators_are_put_back(draw):
    """And the backward draws nothing from them as they are by then."""
    plain, *others = chains([Skipped(draw) for _ in range(6)], KEPT)
    x = torch.randn(4, 6)
    wanted = drawn(plain, x)
    for other in others:
        assert_close(drawn(other, x), wanted)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = linear(3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
@pytest.mark.parametrize("options", [{}, {"exact": True}])
def test_a_counter_is_said(memory, options):
    model = ReversibleSequential(Counter(), Counter(), memory=memory, **options)
    loss = model(torch.randn(2, 6)).sum()
    message = r"block 1 \(Counter\) gave something else when it was computed again"
    with pytest.raises(RuntimeError, match=message):
        loss.backward()


def test_a_generator_of_its_own_is_said():
    generator = torch.Generator()
    model = ReversibleSequential(lambda x: x * torch.rand(x.shape, generator=generator))
    loss = model(torch.randn(2, 6, requires_grad=True)).sum()
    with pytest.raises(RuntimeError, match=r"block 0 .* gave something else"):
        loss.backward()


def test_a_batch_that_tells_nothing():
    """The next one is looked at then."""
    model = ReversibleSequential(Counter(), memory="checkpoint")
    model(torch.full((2, 6), torch.inf)).sum().backward()
    with pytest.raises(RuntimeError, match="gave something else"):
        model(torch.randn(2, 6)).sum().backward()


def test_drift_is_no_other_output():
    """An inverse at the limit of its rounding moves the stream; then no block is blamed."""
    weak = FunctionCoupling(lambda a, f: a * 1e-2 + f, lambda y, f: (y - f) / 1e-2)
    blocks = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(12)]
    model = ReversibleSequential(*blocks, coupling=weak)
    x = torch.randn(4, 6, requires_grad=True)
    model(x).sum().backward()
    exact = ReversibleSequential(*blocks, coupling=weak, memory="none")
    (wanted,) = torch.autograd.grad(exact(x).sum(), x)
    assert (x.grad - wanted).norm() > 0.1 * wanted.norm()


def test_lazy_layers():
    def lazy():
        return nn.Sequential(nn.LazyLinear(3), nn.Tanh())

    model, x = ReversibleSequential(lazy(), lazy()), torch.randn(2, 6)
    with pytest.raises(RuntimeError, match=r"block 0 \(Sequential\) has lazy layers, .*no_grad"):
        model(x)
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    assert model[0].block[0].weight.grad.shape == (3, 3)
