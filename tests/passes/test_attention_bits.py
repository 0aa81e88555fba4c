"""Bits of queries, keys and values."""

import pytest
import torch
from torch.nn import functional as F

from .test_attention import BATCH, HEADS, TOKENS, WIDTH, policy
from .tools import gradients, partitioned, relative


def attend(x, *ws):
    q, k, v = ((x @ w).view(BATCH, TOKENS, HEADS, WIDTH).transpose(1, 2) for w in ws)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("more", [{}, {"bits": 4}, {"group": 128}])
def test_bits_that_are_asked_for(more):
    """Of queries, keys and values alone; sharp attention bears far smaller errors in them."""
    torch.manual_seed(0)
    d = HEADS * WIDTH
    ws = [torch.randn(d, d) / d**0.5 for _ in range(3)]
    inputs = torch.randn(BATCH, TOKENS, d), *(w.requires_grad_() for w in (ws[0] * 4, *ws[1:]))
    plain = {**policy("compact"), **more}
    asked = {**plain, "rules": {"encode": {"attention": 8}}}
    sites = partitioned(attend, *inputs, policy=asked).plan.sites
    wanted = f"8 bits, groups of {more.get('group', 64)}"
    assert [site.action for site in sites if site.residual.op == "aten.mm"] == 3 * [wanted]
    exact, found, without = (gradients(attend, *inputs, policy=p) for p in ("eager", asked, plain))
    for one, other, true in zip(found[1:3], without[1:3], exact[1:3], strict=True):
        assert relative(one, true) < 0.5 * relative(other, true)


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [("balanced", "8 bits, groups of 256"), ("compact", "6 bits, groups of 64")],
)
def test_bits_by_default(preset, wanted):
    d = HEADS * WIDTH
    inputs = torch.randn(BATCH, TOKENS, d), *(torch.randn(d, d).requires_grad_() for _ in range(3))
    sites = partitioned(attend, *inputs, policy=policy(preset)).plan.sites
    assert [site.action for site in sites if site.residual.op == "aten.mm"] == 3 * [wanted]
