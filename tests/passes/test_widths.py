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
