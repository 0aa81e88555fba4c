"""Reversible models as users compile them: peak and kept bytes by depth, training, Inductor."""

import itertools

import pytest
import torch
from passes.test_reversible import ASKED
from passes.test_reversible_transformer import TwoStreams
from passes.tools import leaf, partitioned, relative, slope
from torch import nn
from torch._inductor.utils import fresh_cache, run_fw_bw_and_get_code

from fxmem.backend import fxmem
from fxmem.measure import kept, peak_bytes

OFF = {"rules": {"reversible": False}}
X = (4, 128, 32)
STATE = 4 * 128 * 32 * 4


class Convolutional(nn.Module):
    """Couplings of channels: batch norm, ReLU, convolution."""

    def __init__(self, layers, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * channels, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, 4 * channels, 3, padding=1),
                nn.BatchNorm2d(4 * channels),
                nn.ReLU(),
                nn.Conv2d(4 * channels, channels, 3, padding=1),
            )
            for _ in range(2 * layers)
        )

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        for f, g in zip(self.branches[::2], self.branches[1::2], strict=True):
            a = a + f(b)
            b = b + g(a)
        return torch.cat([a, b], 1)


def compiled(model, policy=None, inner="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(model, backend=fxmem, options={"inner": inner, **(policy or {})})


def step(run, x):
    def once():
        out = run(x)
        out.backward(slope(out))

    once()  # compiles, and makes the gradients that are added to afterwards
    return once


def peak(layers, policy=None):
    torch.manual_seed(0)
    return peak_bytes(step(compiled(TwoStreams(layers), policy), leaf(*X)), "cpu")


def test_peak_does_not_grow_with_depth():
    """Each block is recomputed next to its gradient, and forgotten before the one before it."""
    grown = peak(12) - peak(4)
    weights = sum(p.nbytes for p in TwoStreams(12).parameters())
    # New gradients of the weights, one state, and nothing else.
    assert grown <= weights + STATE
    assert peak(12, OFF) - peak(4, OFF) > 8 * 8 * STATE


@pytest.mark.parametrize("model, shape", [(TwoStreams, X), (Convolutional, (4, 3, 32, 32))])
def test_kept_bytes_by_depth(model, shape):
    """At most 1 % of a block's activations a block."""

    def graph(layers):
        torch._dynamo.reset()
        return partitioned(model(layers), leaf(*shape)).plan.after

    def eager(layers):
        net, x = model(layers), leaf(*shape)
        return kept(lambda: net(x)).nbytes

    assert 0 <= (graph(11) - graph(3)) / 8 <= 0.01 * (eager(4) - eager(3))


def test_recomputation_stands_next_to_its_gradient():
    g = partitioned(TwoStreams(6), leaf(*X))
    order = {n: i for i, n in enumerate(g.backward.module.graph.nodes)}
    norms = [n for n in order if n.target is torch.ops.aten.rsqrt.default]
    assert len(norms) == 12
    # From the last block to the first, and between two all of the gradient of the later one.
    products = [n for n in order if n.target is torch.ops.aten.mm.default]
    for late, early in itertools.pairwise(norms):
        between = [n for n in products if order[late] < order[n] < order[early]]
        assert len(between) == 4


@pytest.mark.parametrize("policy", [{}, {"preset": "balanced", "min_bytes": 0}])
def test_trained_as_eager_is(policy):
    def trained(run, model, x):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            run(x).square().mean().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    torch.manual_seed(0)
    x, model, twin = leaf(2, 16, 32), TwoStreams(3), TwoStreams(3)
    twin.load_state_dict(model.state_dict())
    found, exact = trained(compiled(model, policy), model, x), trained(twin, twin, x)
    bound = 1e-2 if policy else 1e-5
    assert all(relative(a, b) < bound for a, b in zip(found, exact, strict=True))


def test_inductor():
    torch.manual_seed(0)
    model, x = TwoStreams(2), leaf(*X)
    run = compiled(model, inner="inductor")
    assert kept(lambda: run(x)).nbytes <= 5 * STATE
    step(run, x)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    step(model, x)
    assert all(relative(a, p.grad) < 1e-4 for a, p in zip(found, model.parameters(), strict=True))


def test_states_are_stored_when_they_are_made():
    """Else Inductor adds up all branches so far again, in every pass over a state."""
    with fresh_cache():
        run = compiled(TwoStreams(3), ASKED, inner="inductor")
        _, (forward, _) = run_fw_bw_and_get_code(lambda: run(leaf(*X)))
    kernels = [line for line in forward.splitlines() if "cpp_pybinding" in line]
    # A state, what is added to it, and the scale and shift of a norm; one of them in its own place.
    assert max(line.count("const float*") for line in kernels) == 3
