"""Random masks are recomputed from their seeds, bit for bit."""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fxmem.backend import fxmem

from .tools import leaf, partitioned, slope


def dropped(x, w):
    return F.dropout(F.gelu(F.dropout(x @ w, 0.3)) @ w, 0.2)


def noisy(x, w):
    return (x @ w) * torch.randn(x.shape)


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


def trained(x, w, policy):
    """Output and gradients under Inductor: run eagerly, its random ops take no heed of their seed."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    y = torch.compile(every_random_op, backend=fxmem, options=policy)(x, w)
    y.backward(slope(y))
    return y, x.grad, w.grad


def every_random_op(x, w):
    return F.rrelu(noisy(dropped(x, w), w), training=True) * torch.randint(1, 4, x.shape)


def test_gradient_is_equal_to_the_bit():
    inputs = leaf(16, 16), leaf(16, 16)
    assert all(map(torch.equal, trained(*inputs, SEEDED), trained(*inputs, KEPT)))


def test_policy_of_the_user_comes_first():
    def checkpointed(x, w):
        return checkpoint(dropped, x, w, use_reentrant=False)

    inputs = leaf(16, 16), leaf(16, 16)
    g = partitioned(checkpointed, *inputs)
    # Nothing but the seeds is kept: the block is recomputed, as its author asked.
    assert kept_kinds(g) == {"int64"}
