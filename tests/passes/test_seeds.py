"""Random masks are recomputed from their seeds, bit for bit."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .tools import gradients, leaf, partitioned


def dropped(x, w):
    return F.dropout(F.gelu(F.dropout(x @ w, 0.3)) @ w, 0.2)


def noisy(x, w):
    return (x @ w) * torch.randn(x.shape)


def rectified_at_random(x, w):
    return F.rrelu(x @ w, training=True)


SEEDED = {"rules": {"seeds": True}}
KEPT = {"rules": {"seeds": False}}


def kept_kinds(graph):
    """Dtypes of what is kept beyond the caller's inputs."""
    return {entry.residual.dtype for entry in graph.plan.entries}


def test_dropout_masks_are_not_kept():
    inputs = leaf(16, 16), leaf(16, 16)
    with_seeds = partitioned(dropped, *inputs, policy=SEEDED)
    assert kept_kinds(with_seeds) == {"float32", "int64"}
    assert with_seeds.backward.ops["prims.inductor_random"] == 2
    torch._dynamo.reset()
    without = partitioned(dropped, *inputs, policy=KEPT)
    assert "bool" in kept_kinds(without)
    assert without.backward.ops["prims.inductor_random"] == 0


def test_seeds_themselves_are_drawn_once():
    graph = partitioned(dropped, leaf(16, 16), leaf(16, 16))
    assert graph.forward.ops["prims.inductor_seeds"] == 1
    assert graph.backward.ops["prims.inductor_seeds"] == 0


@pytest.mark.parametrize("f", [dropped, noisy, rectified_at_random])
def test_gradient_is_equal_to_the_bit(f):
    inputs = leaf(16, 16), leaf(16, 16)
    recomputed = gradients(f, *inputs, policy=SEEDED)
    assert all(map(torch.equal, recomputed, gradients(f, *inputs, policy=KEPT)))


def test_gradient_is_zero_where_dropout_made_zeros():
    x = leaf(64, 64)
    out, grad = gradients(lambda x: F.dropout(x * 2, 0.5), x, policy=SEEDED)
    dropped_out = out == 0
    assert 0.4 < dropped_out.float().mean() < 0.6
    # slope() is nowhere zero on an even number of elements
    assert torch.equal(grad == 0, dropped_out)


def test_policy_of_the_user_comes_first():
    def checkpointed(x, w):
        return checkpoint(dropped, x, w, use_reentrant=False)

    inputs = leaf(16, 16), leaf(16, 16)
    g = partitioned(checkpointed, *inputs)
    # Nothing but the seeds is kept: the block is recomputed, as its author asked.
    assert kept_kinds(g) == {"int64"}
    assert all(
        map(torch.equal, gradients(checkpointed, *inputs, policy=SEEDED)[1:],
            gradients(checkpointed, *inputs, policy=KEPT)[1:])
    )
