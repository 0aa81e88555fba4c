"""Obstacle 8: what a custom Function stashes on its context is told from what it saves."""

import pytest
import torch

from .test_obstacles import LOSSY, PROMISE
from .tools import gradients, leaf, partitioned, relative


class Stashing(torch.autograd.Function):
    """Keeps one product on the context, past autograd's version counter, and saves another."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.product = x @ w
        ctx.save_for_backward(x @ w.t())
        return ctx.product * 2

    @staticmethod
    def backward(ctx, g):
        return g * ctx.product * ctx.saved_tensors[0], None


# Dynamo's own doing, while it traces an autograd.Function.
instantiated = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def stashed(x, w):
    return Stashing.apply(x * 2, w)


@instantiated
@pytest.mark.parametrize("policy", ["exact", LOSSY], ids=["exact", "8 bits"])
def test_8_what_is_stashed_on_the_context_stays_last(policy):
    x, w = leaf(16, 64), torch.randn(64, 64)
    g = partitioned(stashed, x, w, policy=policy)
    flags = [bool(n.meta.get("saved_tensor_with_no_vc_check")) for n in g.kept]
    assert flags == sorted(flags)
    kinds = [type(d).__name__ for d in g.forward.module.graph.output_node().meta["desc"]]
    kinds = kinds[len(kinds) - len(flags) :]
    assert [("NoVcCheck" in kind) for kind in kinds] == flags
    exact, found = gradients(stashed, x, w), gradients(stashed, x, w, policy=policy)
    assert max(map(relative, found, exact)) < PROMISE


@instantiated
@pytest.mark.skipif(
    not hasattr(torch._functorch._aot_autograd.descriptors, "SavedForBackwardsNoVcCheckAOTOutput"),
    reason="this torch does not tell what is stashed on a context from what is saved",
)
def test_8_some_of_it_is_really_flagged():
    g = partitioned(stashed, leaf(16, 64), torch.randn(64, 64), policy=LOSSY)
    flags = [bool(n.meta.get("saved_tensor_with_no_vc_check")) for n in g.kept]
    assert any(flags) and not all(flags)
