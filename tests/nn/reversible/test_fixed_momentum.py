"""Momentum steps on fixed point: undone bit for bit, and near to those of floats."""

import math

import pytest
import torch

from fxmem.nn.reversible.couplings import MomentumCoupling
from fxmem.nn.reversible.fixed_momentum import FixedMomentum

GAMMAS = (0.5, 0.9, 0.99)


def momentum(x, v, gamma, branches):
    for f in branches:
        v = gamma * v + (1 - gamma) * f
        x = x + v
    return v, x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gamma", [*GAMMAS, 1.0])
def test_momentum_steps_come_back_bit_for_bit(gamma, dtype):
    arithmetic, coupling = FixedMomentum(gamma), MomentumCoupling(gamma)
    v, x, *branches = (torch.randn(3, 37).to(dtype) for _ in range(2 + 64))
    states = [arithmetic.enter(v, x)]
    for f in branches:
        states.append(arithmetic.step(states[-1], coupling, f))
    state = arithmetic.check(states[-1], ["f"] * 64)
    state = arithmetic.restored(arithmetic.kept(state))
    for before, f in zip(reversed(states[:-1]), reversed(branches), strict=True):
        source = arithmetic.source(state, coupling)
        assert torch.equal(source, arithmetic.values(before)[1])
        state = arithmetic.back(state, coupling, source, f)
        assert torch.equal(state.v, before.v) and torch.equal(state.x, before.x)
    expected = momentum(x.double(), v.double(), gamma, [f.double() for f in branches])
    # At each of 64 steps v is off by up to 99 units more, 1024 of which are one of x; x rounds too.
    atol, rtol = 64 * (64 * 99 / 1024 + 0.5) / float(states[-1].scale), torch.finfo(dtype).eps
    for got, wanted in zip(arithmetic.values(states[-1]), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol)


def test_momentum_overflow_names_its_block():
    arithmetic, coupling = FixedMomentum(0.5, headroom=2), MomentumCoupling(0.5)
    quiet = torch.full((5,), 0.9)
    for culprit in (math.inf, math.nan, 100.0, -100.0):
        state = arithmetic.enter(quiet, quiet)
        for f in (0 * quiet, torch.tensor([0, 0, culprit, 0, 0])):
            state = arithmetic.step(state, coupling, f)
        with pytest.raises(RuntimeError, match=r"^mlp gives a stream of exact=True"):
            arithmetic.check(state, ["norm", "mlp"])
