"""MomentumNet on fixed point, compiled by fxmem: found in the graph, undone bit for bit."""

import math

import pytest
import torch
from passes.tools import gradients, leaf, partitioned

from fxmem.nn.reversible import MomentumNet
from fxmem.ops.shrinking.multiplier import multiplier_for

from .blocks import linear

ROWS, WIDTH = 16, 12
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def asked(on=True):
    return {"rules": {"reversible": {"force": True} if on else False}}


def net(depth, gamma):
    torch.manual_seed(0)
    return MomentumNet([linear(WIDTH) for _ in range(depth)], gamma)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.3, 1.0])
def test_what_is_kept(gamma):
    """Both states, and log2(1 / gamma) bits an element a layer: the information that it loses."""
    sizes, depths = [], (2, 5)
    for depth in depths:
        torch._dynamo.reset()
        model = MomentumNet([torch.sin] * depth, gamma)
        g = partitioned(model, leaf(64, 36), policy=asked())
        assert g.plan.notes[0] == (
            f"reversible: {2 * depth} links are recomputed from their last two states, int64"
        )
        sizes.append(g.plan.after)
    shared = multiplier_for(gamma).shared
    elements, bits = 64 * 36, math.log2(1 / gamma)
    assert sizes[1] - sizes[0] == pytest.approx(elements * 3 * bits / 8, rel=0.1, abs=1e-6)
    # Beside whole bits of each number, the scales.
    assert sizes[0] - 12 * elements <= elements * (2 * bits + 4 / shared) / 8 + 16


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
