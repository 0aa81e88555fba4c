"""Codes for which something else must be kept: taken where all of it is fewer bytes."""

import pytest
import torch
from torch.nn import functional as F

from .tools import leaf, partitioned


def sines(h, t):
    return (30 * h).sin() @ t


def difference(h, t):
    return F.mse_loss(h.sigmoid(), t, reduction="none")


def splines(h, t):
    """Piecewise linear, of nine pieces: a mask for each."""
    edges = torch.linspace(-2, 2, 10, dtype=h.dtype)
    x = h[..., None]
    inside = (x >= edges[:-1]) & (x < edges[1:])
    return (inside.to(h.dtype) * (x * x)).sum(-1)


def whole(h, t):
    places = h.tanh().mul(7).long()
    return h.exp() * torch.arange(16, dtype=h.dtype)[places + 8]


def relu(h, t):
    return h.relu() @ t


F32, BF16 = torch.float32, torch.bfloat16
BESIDE = ": evaluated in the forward and kept, not recomputed"
# And whether anything is kept in place of, or beside, a code in 8 bits and in 4.
CASES = {
    "sines": (sines, F32, True, True),
    "sines in 16 bits": (sines, BF16, False, True),
    "a difference": (difference, F32, True, True),
    "a difference in 16 bits": (difference, BF16, False, True),
    "masks": (splines, F32, True, True),
    "masks in 16 bits": (splines, BF16, False, False),
    "integers": (whole, F32, False, False),
    "one mask in 16 bits": (relu, BF16, True, True),
}


@pytest.mark.parametrize(("f", "dtype", "balanced", "compact"), CASES.values(), ids=CASES)
def test_never_more_bytes_than_exact(f, dtype, balanced, compact):
    x, w, t = (leaf(64, 64, dtype=dtype) for _ in range(3))
    inputs = x, w, t if f is not difference else t.detach()
    plans = {
        preset: partitioned(
            lambda x, w, t: f(x @ w, t), *inputs, policy={"preset": preset, "min_bytes": 0}
        ).plan
        for preset in ("exact", "balanced", "compact")
    }
    for preset, taken in (("balanced", balanced), ("compact", compact)):
        plan = plans[preset]
        assert plan.after <= plans["exact"].after
        assert any(note.endswith(BESIDE) for note in plan.notes) == taken
