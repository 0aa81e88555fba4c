"""Discrete functions of discrete functions, and regions that the user checkpoints in a row."""

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .tools import gradients, leaf, partitioned, relative

EIGHT = {"preset": "balanced", "min_bytes": 0}


def test_index_made_of_steps():
    """floor is a float that steps: its code must not become another index."""

    def looked_up(x, w, e):
        t = x @ w
        found = functional.embedding((torch.floor(t) + 200).long(), e)
        return found.square().mean() + t.square().mean()

    inputs = leaf(64, 64), leaf(64, 64), leaf(500, 8)
    exact = gradients(looked_up, *inputs)
    # The lookup is exact, so that only what is read besides it is off: by 8-bit codes.
    for found, true in zip(gradients(looked_up, *inputs, policy=EIGHT), exact, strict=True):
        assert relative(found, true) <= 0.01


def test_mask_of_what_is_needed_anyway():
    """A mask frees nothing where its source is kept for another: then it is recomputed."""

    def gated(x, w):
        h = (x @ w) * 2
        return torch.relu(h) * torch.sigmoid(h)

    inputs = leaf(64, 64), leaf(64, 64)
    plain = partitioned(gated, *inputs, policy={"rules": {"discrete": False}})
    assert partitioned(gated, *inputs).plan.after <= plain.plan.after


def test_checkpointed_regions_stay_apart():
    """What lies between two regions is no bridge: each recomputes itself from its own input."""

    def block(x, w):
        return torch.sigmoid(torch.sigmoid(x @ w) @ w)

    def blocks(x, w):
        for _ in range(4):
            x = checkpoint(block, x, w, use_reentrant=False) * 1.5
        return x

    g = partitioned(blocks, leaf(64, 64), leaf(64, 64))
    kept = [e for e in g.plan.entries if e.residual.nbytes == 4 * 64 * 64]
    # Of four regions the last three have an input that a region before them makes.
    assert len(kept) >= 3
    # Two products recomputed a region (the second only where its result is read), four of gradients.
    assert g.backward.ops["aten.mm"] <= 4 * (2 + 4)


def test_mask_whose_base_has_an_unknown_size():
    """Only a slice is kept, and the backward cannot tell how long the whole is: refused."""

    def sliced(x, w):
        mask = (x @ w) > 0
        return torch.where(mask[:4], (x[:4] @ w.t()) * 2, 0.0)

    x, w = leaf(8, 64), leaf(64, 64)
    torch._dynamo.mark_dynamic(x, 0)
    found = gradients(sliced, x, w, policy=EIGHT)
    for value, true in zip(found, gradients(sliced, x, w), strict=True):
        assert relative(value, true) <= 0.01
