"""Residuals in which nothing bounds an error: denominators, roots, places, whole parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned

PICTURE = torch.linspace(0, 1, 1024).sin().view(1, 1, 16, 64)
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


def digamma(x, w, a):
    return torch.digamma((x @ w).abs() + 1e-3) * a


def log_gamma(x, w, a):
    return torch.lgamma(F.softplus(x @ w)) * a


def polygamma(x, w, a):
    return torch.polygamma(1, (x @ w).square() + 1e-3) * a


def zeta(x, w, a):
    return torch.special.zeta(3.0, (x @ w).exp() - 0.9) * a


def is_refused(graph):
    return any(why.startswith(WHY) for why in graph.why)


POLES = (root, quotient, reciprocal_root, logarithm, products, pooled)
POLES += (digamma, log_gamma, polygamma, zeta)


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


def places(x, w, a):
    """Where a picture is read, as far as the tanh of it says."""
    grid = (x @ w).tanh().view(1, 16, 128, 2)
    return F.grid_sample(PICTURE, grid, align_corners=False) + a


def weights_of_places(x, w, a):
    """The weights of four neighbours are read as well, for what the picture is multiplied by."""
    return places(x, w, a) * a


def fraction(x, w, a):
    h = 20 * (x @ w)
    return (h - h.floor()).sin() * a


def learned_step(x, w, a):
    """Esser et al. (2020), equation 3: the step's gradient is what rounding leaves."""
    return straight_through((x @ w) / a) * a


def straight_through(x):
    return (x.round() - x).detach() + x


def segments(reduce):
    def f(x, w, a):
        lengths = torch.full((4,), 4)
        return torch.segment_reduce(x @ w, reduce, lengths=lengths) * a

    f.__name__ = f"segments_{reduce}"
    return f


def learned_grid(x, w, a):
    return torch._fake_quantize_learnable_per_tensor_affine(
        x @ w, a[None].abs(), torch.zeros(1), -8, 7, 1.0
    )


def learned_grids(x, w, a):
    scales = a.expand(256)
    return torch._fake_quantize_learnable_per_channel_affine(
        x @ w, scales, torch.zeros(256), 1, -8, 7, 1.0
    )


COMPARED = "an operator of the backward compares or rounds it: as it is, or not at all"
WHOLE = "its whole part is read beside it: of what is left codes would leave nothing"
EXACT = {
    places: "it says where something is read: what is read aside is something else",
    weights_of_places: WHOLE,
    fraction: WHOLE,
    learned_step: WHOLE,
    segments("max"): COMPARED,
    segments("min"): COMPARED,
    segments("prod"): COMPARED,
    learned_grid: COMPARED,
    learned_grids: COMPARED,
}


@pytest.mark.parametrize("f", EXACT, ids=lambda f: f.__name__)
def test_kept_exactly(f):
    graph = partitioned(f, *inputs(), policy=COMPACT)
    assert any(why.startswith(EXACT[f]) for why in graph.why)
    found, exact = (gradients(f, *inputs(), policy=p) for p in (COMPACT, "eager"))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_whole_parts_alone_are_encoded():
    """Quantization that passes gradients straight through needs no more of what it rounds."""

    def quantized(x, w, a):
        return straight_through(8 * (x @ w)) @ w.mT * a

    graph = partitioned(quantized, *inputs(), policy=COMPACT)
    assert not graph.why and graph.plan.sites
