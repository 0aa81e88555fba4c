"""Residuals whose small values must not become 0: what the backward divides by, roots, logarithms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned

COMPACT = {"preset": "compact", "min_bytes": 0}
WHY = "the backward divides by it or takes its root: near zero an error has no bound"


def root(x, w, a):
    return ((x @ w).relu() + 1e-6).pow(a)


def quotient(x, w, a):
    h = x @ w
    return a / (h * h).clamp(min=1e-6)


def reciprocal_root(x, w, a):
    return a * ((x @ w).square() + 1e-6).rsqrt()


def logarithm(x, w, a):
    return a * (x @ w).abs().clamp(min=1e-5).log()


def products(x, w, a):
    return a * torch.cumprod(1 + x @ w, -1)


def pooled(x, w, a):
    return F.lp_pool2d((x @ w).relu().view(4, 4, 16, 16), 2, 2) * a


def is_refused(graph):
    return any(why.startswith(WHY) for why in graph.why)


POLES = (root, quotient, reciprocal_root, logarithm, products, pooled)


def inputs():
    torch.manual_seed(0)
    return (
        leaf(16, 64),
        (torch.randn(64, 256) / 8).requires_grad_(),
        torch.tensor(0.5).requires_grad_(),
    )


@pytest.mark.parametrize("f", POLES, ids=lambda f: f.__name__)
def test_refused(f):
    assert is_refused(partitioned(f, *inputs(), policy=COMPACT))


@pytest.mark.parametrize("f", POLES, ids=lambda f: f.__name__)
def test_gradients_are_finite(f):
    assert all(g.isfinite().all() for g in gradients(f, *inputs(), policy=COMPACT))


KEPT_AWAY = {
    "a large constant": lambda h: 1 / (1 + h.square()),
    "a clamp": lambda h: h.abs().clamp(min=0.1).log(),
    "an exponential": lambda h: 1 / (1e-6 + h.exp()),
    "a numerator": lambda h: h / 3.0,
    "a whole power": lambda h: h**3,
}


@pytest.mark.parametrize("f", KEPT_AWAY.values(), ids=KEPT_AWAY)
def test_encoded_where_nothing_is_near_a_pole(f):
    def run(x, w, a):
        return f(x @ w).sin() * a

    graph = partitioned(run, *inputs(), policy=COMPACT)
    assert not is_refused(graph) and graph.plan.sites


def test_norms_are_encoded_as_ever():
    norm = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.RMSNorm(64))
    assert not is_refused(partitioned(norm, leaf(128, 64), policy=COMPACT))
