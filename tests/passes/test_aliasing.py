"""Mutation and aliasing are taken as they come: gradients are eager's."""

import pytest
import torch
from torch import nn

from .tools import gradients, leaf, partitioned, relative, slope

LOSSY = {"preset": "balanced", "bits": 8, "group": 64, "min_bytes": 0}
# exact: rounding of float32, some tens of operations long; 8 bits: the preset's promise.
POLICIES = [("exact", 1e-5), (LOSSY, 0.01)]


class ReadThenOverwritten(nn.Module):
    """Its buffer is read, then overwritten: what was read is gone when the backward runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.ones(16, 64))

    def forward(self, x):
        scale = self.state * 2
        self.state.mul_(0.5)
        return (x * scale).sin()


class OverwrittenThenRead(ReadThenOverwritten):
    """A running mean that normalises: the backward needs the new value."""

    def forward(self, x):
        self.state.mul_(0.9).add_(x.detach())
        return (x * self.state).sin()


class ViewOverwritten(ReadThenOverwritten):
    """A view of the buffer is what is read."""

    def forward(self, x):
        scale = self.state.view(64, 16).t().reshape(16, 64) * 2
        self.state.mul_(0.5)
        return (x * scale).sin()


@pytest.mark.parametrize("policy, error", POLICIES, ids=["exact", "8 bits"])
@pytest.mark.parametrize("kind", [ReadThenOverwritten, OverwrittenThenRead, ViewOverwritten])
def test_buffer_overwritten(kind, policy, error):
    x = leaf(16, 64)
    eager, found = gradients(kind(), x), gradients(kind(), x, policy=policy)
    assert relative(found[1], eager[1]) < error


def in_place(x, w):
    h = x @ w
    h.mul_(0.5).relu_()
    g = h.sin()
    g.add_(1)
    return g


def input_mutated(x, w, state):
    y = (x @ w).sin()
    state.add_(y.detach())
    return y * state


def output_is_a_view_of_an_input(x, w, state):
    return (x @ w).sin(), state.view(-1) * 1, x.view(-1)


def expanded(x, w):
    return ((x[:1] @ w).expand(16, 64) * x).sin() @ w


def part_of_a_chunk(x, w):
    a, b = (x @ w).chunk(2, 1)
    return a.sin() * 2 + b.detach().sum()


def scalar(x, w):
    return (x @ w).sin() * (x @ w).mean().sin()


PROGRAMS = {
    "in place": (in_place, ()),
    "input mutated": (input_mutated, (torch.zeros(16, 64),)),
    "output is a view of an input": (output_is_a_view_of_an_input, (torch.zeros(16, 64),)),
    "expanded": (expanded, ()),
    "part of a chunk": (part_of_a_chunk, ()),
    "scalar": (scalar, ()),
}


@pytest.mark.parametrize("policy, error", POLICIES, ids=["exact", "8 bits"])
@pytest.mark.parametrize("f, more", PROGRAMS.values(), ids=PROGRAMS)
def test_gradients(f, more, policy, error):
    inputs = leaf(16, 64), (torch.randn(64, 64) / 32).requires_grad_()
    eager = gradients(f, *inputs, *(t.clone() for t in more))
    found = gradients(f, *inputs, *(t.clone() for t in more), policy=policy)
    assert max(map(relative, found, eager)) < error


def test_mutated_input_is_mutated_once():
    state = torch.zeros(16, 64)
    y = gradients(input_mutated, leaf(16, 64), leaf(64, 64), state, policy=LOSSY)[0]
    assert torch.equal(y, state * state)


def test_channels_last_strides_come_back():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.SiLU(), nn.Conv2d(16, 8, 3))
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 12, 12).to(memory_format=torch.channels_last).requires_grad_()
    g = partitioned(model, x, policy=LOSSY)
    (decoded,) = g.backward.names("fxmem.decode")
    value = g.backward.node(decoded).meta["val"]
    assert value.is_contiguous(memory_format=torch.channels_last)
    eager, found = gradients(model, x), gradients(model, x, policy=LOSSY)
    assert max(map(relative, found, eager)) < 0.01  # the preset's promise


@pytest.mark.parametrize("policy", ["exact", LOSSY])
def test_empty_tensors(policy):
    x, w = leaf(0, 64), leaf(64, 64)
    y, dx, dw = gradients(lambda x, w: torch.relu(x @ w).sin(), x, w, policy=policy)
    assert (y.shape, dx.shape) == ((0, 64), (0, 64))
    assert torch.equal(dw, torch.zeros(64, 64))


def copied(x, state):
    y = x * state.clone()
    state.mul_(0.5)
    return y.sin()


def averaged(x, state):
    old = state.clone()
    state.mul_(0.9).add_(x.detach(), alpha=0.1)
    return (x - old) * old


def queued(x, state):
    logits = x @ state.t().clone()
    state[:8].copy_(x.detach()[:8])
    return logits.logsumexp(-1)


def written_in_part(x, state):
    y = torch.tanh(x[:8] * state[1:9].clone())
    state[2:4] = 0
    return y


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("f", [copied, averaged, queued, written_in_part])
def test_copies_of_what_is_overwritten_are_kept(f):
    """Inductor drops the copy as needless before the graph is cut, and its own gradient is wrong."""
    states = torch.rand(16, 64), torch.rand(16, 64)
    states[1].copy_(states[0])
    x = leaf(16, 64)
    grads = []
    for run, state in zip((f, torch.compile(f, backend="fxmem")), states, strict=True):
        y = run(x, state)
        grads += torch.autograd.grad(y, x, slope(y))
    assert relative(*reversed(grads)) < 1e-5
    torch.testing.assert_close(*states)
