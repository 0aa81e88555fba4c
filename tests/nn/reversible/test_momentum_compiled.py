"""MomentumNet on fixed point, compiled by fxmem: found in the graph, undone bit for bit."""

import pytest
import torch
from passes.tools import gradients, leaf, partitioned

from fxmem.nn.reversible import MomentumNet

from .blocks import linear

ROWS, WIDTH = 16, 12
ELEMENTS = ROWS * WIDTH
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def asked(on=True):
    return {"rules": {"reversible": {"force": True} if on else False}}


def net(depth, gamma):
    torch.manual_seed(0)
    return MomentumNet([linear(WIDTH) for _ in range(depth)], gamma)


def lost(gamma):
    """Bits an element that a layer keeps."""
    return 0 if gamma == 1 else 1 if gamma >= 0.5 else 2


@pytest.mark.parametrize("gamma", [0.9, 0.5, 0.3, 1.0])
def test_what_is_kept(gamma):
    """Both states, and a layer the bits that gamma loses; those of zeros are known."""
    sizes = []
    for depth in (3, 5):
        torch._dynamo.reset()
        g = partitioned(net(depth, gamma), leaf(ROWS, WIDTH), policy=asked())
        assert g.plan.notes[0] == (
            f"reversible: {2 * depth} links are recomputed from their last two states, int64"
        )
        sizes.append(g.plan.after)
    # Elements are filled up to a whole number of words.
    assert sizes[1] - sizes[0] <= 2 * 1.1 * ELEMENTS * lost(gamma) / 8
    assert sizes[0] <= 1.1 * ELEMENTS * (8 + 4 + 3 * lost(gamma) / 8) + 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gamma", [0.9, 0.3])
def test_bit_for_bit(gamma, dtype):
    model, x = net(4, gamma).to(dtype), torch.randn(ROWS, WIDTH).to(dtype).requires_grad_()
    found, kept = (gradients(model, x, policy=asked(on)) for on in (True, False))
    assert all(map(torch.equal, found, kept))
    assert all(float(t.abs().sum()) > 0 for t in found)


def test_a_size_that_changes_keeps_every_state():
    model = net(3, 0.9)
    for rows in (4, 8):
        x = leaf(rows, WIDTH)
        torch._dynamo.mark_dynamic(x, 0)
        found = gradients(model, x, policy=asked(), dynamic=True)
        kept = gradients(model, x, policy=asked(False), dynamic=True)
        assert all(map(torch.equal, found, kept))
