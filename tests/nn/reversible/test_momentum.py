"""MomentumNet: its formula, its gradients, momentumnet's arguments, and what gamma allows."""

import math

import pytest
import torch
from torch import nn

from fxmem.measure import kept
from fxmem.nn.reversible import MomentumNet, residual_to_plain

from .blocks import assert_close, linear, trained

GAMMAS = (0.5, 0.9, 0.99, 1.0)
WIDTH = 6


def functions(depth, width=WIDTH):
    torch.manual_seed(3)
    return [linear(width) for _ in range(depth)]


def formula(branches, gamma, x, v=None):
    v = torch.zeros_like(x) if v is None else v
    for f in branches:
        v = gamma * v + (1 - gamma) * f(x)
        x = x + v
    return x


class Formula(nn.Module):
    """The same network as a loop that keeps everything."""

    def __init__(self, net, gamma):
        super().__init__()
        self.branches, self.gamma = nn.ModuleList(net.functions), gamma
        self.first = net.init_function

    def forward(self, x):
        return formula(self.branches, self.gamma, x, self.first(x) if self.first else None)


OPTIONS = (
    {},
    {"exact": False},
    {"compensate": 8},
    {"memory": "checkpoint"},
    {"memory": "none"},
    {"memory": "none", "exact": True},
    {"init_speed": True, "init_function": nn.Linear(WIDTH, WIDTH)},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_output_and_all_gradients_are_those_of_the_formula(gamma, options):
    net = MomentumNet(functions(5), gamma, **options).double()
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    assert_close(trained(net, x), trained(Formula(net, gamma), x), rtol=1e-8)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradcheck(gamma, options):
    net = MomentumNet(functions(3), gamma, **options).double()
    x = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    # A difference of 1e-6 would measure the steps of the fixed-point streams.
    assert torch.autograd.gradcheck(net, (x,), eps=1e-4)


def test_momentumnets_arguments():
    first = nn.Linear(WIDTH, WIDTH)
    net = MomentumNet(functions(3), 0.9, True, first, False, True)
    assert net.memory == "reversible" and net.init_function is first and net.gamma == 0.9
    assert MomentumNet(functions(3), gamma=0.9, use_backprop=True).memory == "none"
    assert len(net.functions) == 3
    with pytest.raises(ValueError, match="init_speed=True needs init_function"):
        MomentumNet(functions(3), 0.9, init_speed=True)


def test_blocks_with_their_own_skip_connection():
    class Residual(nn.Module):
        def __init__(self, branch):
            super().__init__()
            self.branch = branch

        def forward(self, x):
            return x + self.branch(x)

    branches = functions(4)
    net = MomentumNet([Residual(f) for f in branches], 0.9, is_residual=False).double()
    plain = MomentumNet(branches, 0.9).double()
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    assert_close(trained(net, x), trained(plain, x), rtol=1e-9)


def test_arguments_reach_every_function_and_gradients_come_back():
    class Scaled(nn.Module):
        def __init__(self, branch):
            super().__init__()
            self.branch = branch

        def forward(self, x, scale, shift=0.0):
            return self.branch(x) * scale + shift

    scale, shift = torch.rand(WIDTH), torch.rand(WIDTH)
    x = torch.randn(4, WIDTH)
    results = [
        trained(
            MomentumNet([Scaled(f) for f in functions(6)], 0.9, memory=memory, exact=True),
            *(x, scale),
            shift=shift,
        )
        for memory in ("none", "checkpoint", "reversible")
    ]
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_gamma_zero_is_a_residual_network():
    branches = functions(4)
    x = torch.randn(4, WIDTH)
    expected = x
    for f in branches:
        expected = expected + f(expected)
    everything, inputs = (
        trained(MomentumNet(branches, 0, memory=memory), x) for memory in ("none", "checkpoint")
    )
    torch.testing.assert_close(everything[0], expected)
    assert all(map(torch.equal, inputs, everything))
    with pytest.raises(ValueError, match=r"gamma=0 is the plain .* memory='checkpoint'"):
        MomentumNet(branches, 0)


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_gammas_that_are_none(gamma):
    with pytest.raises(ValueError, match="gamma must be above 0 and at most 1"):
        MomentumNet(functions(1), gamma)


def test_plain_floats_would_not_do():
    """Why streams are exact without being asked for: 2^48 times the rounding error at 0.5."""
    x = torch.randn(4, WIDTH)
    wanted = trained(MomentumNet(functions(48), 0.5, memory="none"), x)[1]
    exact = trained(MomentumNet(functions(48), 0.5), x)[1]
    drifted = trained(MomentumNet(functions(48), 0.5, exact=False), x)[1]
    assert float((exact - wanted).norm() / wanted.norm()) < 1e-5
    assert not float((drifted - wanted).norm() / wanted.norm()) < 1e-2


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_a_layer_keeps_the_information_that_it_loses(gamma):
    x = torch.randn(64, 96, requires_grad=True)
    shared = nn.Sequential(nn.Linear(96, 96), nn.Tanh())

    def kept_by(depth):
        net = MomentumNet([shared] * depth, gamma)
        return kept(lambda: net(x).sum()).nbytes

    bits = (kept_by(160) - kept_by(32)) * 8 / 128 / x.numel()
    assert bits == pytest.approx(math.log2(1 / gamma), rel=0.1)


def test_residual_to_plain_keeps_what_the_block_keeps():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = linear(32)

        def forward(self, x):
            return x + self.branch(x)

    block, x = Residual(), torch.randn(64, 32, requires_grad=True)
    plain = residual_to_plain(block)
    torch.testing.assert_close(plain(x), block.branch(x), rtol=1e-5, atol=1e-6)
    assert kept(lambda: plain(x).sum()).nbytes == kept(lambda: block(x).sum()).nbytes
