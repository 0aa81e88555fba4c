"""How many bits a residual is given, by what the backward makes of it."""

import pytest
import torch
from torch.nn import functional as F

from .tools import leaf, partitioned

COMPACT = {"preset": "compact", "min_bytes": 0}


def gated(h):
    gate, up = h.chunk(2, 1)
    return F.silu(gate) * up


def cell(h):
    i, f, g, o = h.split(h.shape[1] // 4, 1)
    return o.sigmoid() * (i.sigmoid() * g.tanh() + f.sigmoid()).tanh()


def few(h):
    return h @ h.t() + h[:, :4].sinh().sum()


@pytest.mark.parametrize(
    ("function", "columns", "bits"),
    [(torch.sinh, 64, 5), (gated, 128, 5), (cell, 256, 5), (few, 64, 4), (torch.neg, 64, 4)],
)
def test_one_more_where_a_function_is_taken_of_it_or_of_a_gate_of_it(function, columns, bits):
    def f(x, w, v):
        return function(x @ w) @ v

    width = function(torch.zeros(16, columns)).shape[1]
    plan = partitioned(f, leaf(16, 64), leaf(64, columns), leaf(width, 8), policy=COMPACT).plan
    (site,) = (site for site in plan.sites if site.residual.shape == (16, columns))
    assert site.action.startswith(f"{bits} bits")


@pytest.mark.parametrize(
    ("function", "bits"),
    [
        (lambda a, b, u: (a * b).detach() @ u, 5),
        (lambda a, b, u: (2 * a).detach() @ u, 4),
        (lambda a, b, u: torch.tanh(a) @ u.detach(), 5),
        (lambda a, b, u: torch.sigmoid(a) @ u.detach(), 5),
    ],
    ids=["product", "multiple", "slope of a tanh", "slope of a sigmoid"],
)
def test_one_more_for_products_of_activations(function, bits):
    def f(x, w, v, u):
        return function(x @ w, x @ v, u)

    plan = partitioned(f, *[leaf(64, 64) for _ in range(4)], policy=COMPACT).plan
    (site,) = plan.sites
    assert site.action.startswith(f"{bits} bits")
