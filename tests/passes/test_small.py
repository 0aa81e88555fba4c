"""The smallest residuals are kept exactly while all of their size and less cost next to nothing."""

import pytest
import torch
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned, relative

SMALL = "small:"


def pooled(heads):
    """A product of 256 by 64 elements under a function, and `heads` of 16 rows made of it."""

    def f(x, w, v):
        h = (x @ w).sinh().view(16, 16, 64)
        return [(h[:, i] @ v).sinh() for i in range(heads)]

    return f


def small(plan):
    return [r.residual.shape for r in plan.refusals if r.why.startswith(SMALL)]


def settled(heads, columns, **options):
    inputs = leaf(256, 64), leaf(64, 64), leaf(64, columns)
    policy = {"preset": "compact", "min_bytes": 0, **options}
    return partitioned(pooled(heads), *inputs, policy=policy).plan


# Codes of 256 by 64 elements are 8 KiB with 4 bits; a 16th of it is what 16 by 8 floats take.
@pytest.mark.parametrize(
    ("heads", "columns", "shapes"),
    [(1, 8, [(16, 8)]), (2, 4, [(16, 4)] * 2), (2, 8, []), (1, 16, []), (3, 4, [])],
    ids=["one", "two", "all of a size or none", "too large", "too many"],
)
def test_all_of_a_size_or_none(heads, columns, shapes):
    assert small(settled(heads, columns)) == shapes


def test_by_how_wide_codes_are():
    assert small(settled(1, 16, preset="balanced")) == [(16, 16)]
    assert small(settled(1, 16, bits=8)) == [(16, 16)]
    assert small(settled(1, 8, bits=2)) == []


def test_what_min_bytes_leaves_out_is_not_counted():
    assert small(settled(1, 8, min_bytes=1024)) == []
    assert small(settled(1, 8, min_bytes=512)) == [(16, 8)]


@pytest.mark.parametrize("policy", [{}, {"preset": "compact", "rules": {"encode": False}}])
def test_nothing_without_codes(policy):
    x, w, v = leaf(256, 64), leaf(64, 64), leaf(64, 8)
    assert small(partitioned(pooled(1), x, w, v, policy={"min_bytes": 0, **policy}).plan) == []


def twins(x, w, v):
    """Barlow Twins' loss of 64 pictures, two views each, of 256 patches."""
    z = F.silu(F.silu(x @ w).view(2, 64, 256, 64).mean(2)) @ v
    a, b = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    c, eye = a.t() @ b / 64, torch.eye(16)
    return ((1 - c.diagonal()) ** 2).sum() + 0.05 * ((1 - eye) * c**2).sum()


@pytest.mark.parametrize(("preset", "bound"), [("balanced", 0.003), ("compact", 0.04)])
def test_a_loss_of_a_batchs_embeddings(preset, bound):
    torch.manual_seed(0)
    x = torch.randn(1, 64, 1, 64) + 0.2 * torch.randn(2, 64, 256, 64)
    x, w, v = x.flatten(0, 2), torch.randn(64, 64) / 8, torch.randn(64, 16) / 8
    w, v, policy = w.requires_grad_(), v.requires_grad_(), {"preset": preset, "min_bytes": 0}
    found, exact = (gradients(twins, x, w, v, policy=p) for p in (policy, "eager"))
    error = max(relative(a, b) for a, b in zip(found, exact, strict=True))
    assert error < bound, f"{error:.4f}"
