"""Anchors: states that are kept so that what comes back from them stays near enough."""

import pytest
import torch
from torch.nn import functional as F

from fxmem import PolicyError
from fxmem.passes.joint.reversible.anchors import anchors
from fxmem.passes.joint.reversible.chains import find_chains

from .test_reversible import OFF, chain, inputs, run, weights
from .test_reversible_spellings import graph_of
from .tools import gradients, partitioned, relative

STATE = 8 * 16 * 4


def asked(**options):
    return {"rules": {"reversible": {"force": True, "float64": False, **options}}}


def momentum(gamma):
    def f(v, x, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            v = gamma * v + (1 - gamma) * torch.tanh(x @ w)
            x = x + v
        return v * x

    return f


def grown(a, b, *ws):
    """States that nothing normalises, with weights as nn.Linear draws them."""
    a, b = chain(a.sin(), b.cos(), ws, f=lambda x, w: F.relu(x @ w * 3**-0.5))
    return a * b


def kept_on_the_way(f, *given, policy=None):
    torch._dynamo.reset()
    (note,) = partitioned(f, *given, policy=policy or asked()).plan.notes
    words = note.partition("; ")[2].split()
    return int(words[0]) if words else 0


def as_dtype(given, dtype):
    return [t.detach().to(dtype).requires_grad_() for t in given]


@pytest.mark.parametrize("depth, kept", [(30, 0), (80, 4)])
def test_sums_are_anchored_in_pairs(depth, kept):
    given = as_dtype((*inputs(8, 16), *weights(depth)), torch.float64)
    assert kept_on_the_way(run, *given) == kept


@pytest.mark.parametrize("gamma, kept", [(1.0, 0), (0.9, 1), (0.5, 4)])
def test_momentum_is_anchored_as_it_forgets(gamma, kept):
    given = as_dtype((*inputs(8, 16), *weights(10)), torch.float64)
    assert kept_on_the_way(momentum(gamma), *given) == kept


def test_momentum_is_anchored_in_pairs():
    """Where the position had its error still, every velocity after would be kept."""
    with torch.no_grad():
        graph = graph_of(momentum(0.5), *inputs(8, 16), *weights(128))
    (chain,) = find_chains(graph.nodes)
    assert [len(anchors(chain[:n], widened=torch.float32)) for n in (32, 128, 256)] == [0, 4, 10]


def test_anchors_as_asked_for():
    given = *inputs(8, 16), *weights(12)
    assert [kept_on_the_way(run, *given, policy=asked(anchor=n)) for n in (0, 1, 4)] == [0, 11, 4]


def test_anchor_of_an_impossible_value_is_refused():
    with pytest.raises(PolicyError, match="must be from 0 to 65535, got -1"):
        partitioned(run, *inputs(8, 16), *weights(4), policy=asked(anchor=-1))


DEPTHS = (8, 16, 64)
NETS = {
    "sums": run,
    "sums that grow": grown,
    "momentum 0.9": momentum(0.9),
    "momentum 0.5": momentum(0.5),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", NETS)
def test_error_in_half_precision(name, depth):
    """Against fp64 at most 1.1 times that of every state kept, in the norm of all gradients."""
    given = as_dtype((*inputs(8, 16), *weights(depth)), torch.bfloat16)
    exact = gradients(NETS[name], *as_dtype(given, torch.float64))
    found, plain = (gradients(NETS[name], *given, policy=p) for p in (asked(), OFF))
    assert error(found, exact) <= 1.1 * error(plain, exact)


@pytest.mark.parametrize("name", NETS)
def test_error_in_single_precision(name):
    given = *inputs(8, 16), *weights(64)
    exact = gradients(NETS[name], *as_dtype(given, torch.float64))
    assert error(gradients(NETS[name], *given, policy=asked()), exact) <= 1e-5


def test_without_anchors_momentum_forgets():
    """So that the bound above is not met by chance."""
    given = *inputs(8, 16), *weights(64)
    exact = gradients(NETS["momentum 0.5"], *as_dtype(given, torch.float64))
    assert error(gradients(NETS["momentum 0.5"], *given, policy=asked(anchor=0)), exact) > 1e-2


def error(found, exact):
    def joined(tensors):
        return torch.cat([t.double().flatten() for t in tensors])

    return relative(joined(found), joined(exact))
