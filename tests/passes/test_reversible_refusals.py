"""Why a branch is not computed a second time, one sentence a reason; chains are split there."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.joint.reversible.chains import find_chains
from fxmem.passes.joint.reversible.recomputable import recomputable

from .test_reversible import branch, chain, inputs, weights


def draws(x, w):
    return torch.rand_like(branch(x, w)) * x


def communicates(x, w):
    return torch.ops._c10d_functional.all_reduce(branch(x, w), "sum", "0")


def has_effects(x, w):
    return branch(x, w).mul_(2)


SENTENCES = {
    draws: "draws random numbers without a seed that could be given again",
    communicates: "communicates between processes",
    has_effects: "has effects beside its result",
}


def split(f, couplings=6):
    """Return the lengths of the parts of a chain whose fourth branch is `f`, and why."""

    def net(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws[:3])
        a, b = chain(a, b, ws[3:4], f=f)
        a, b = chain(a, b, ws[4:])
        return a * b

    graph = make_fx(net, tracing_mode="fake")(*inputs(8, 16), *weights(couplings + 1)).graph
    (found,) = find_chains(graph.nodes)
    assert len(found) == couplings + 1
    parts, why = recomputable(found)
    return [len(part) for part in parts], why


@pytest.mark.parametrize("f", SENTENCES, ids=lambda f: f.__name__)
def test_a_chain_is_split_where_it_cannot_be_computed_twice(f):
    parts, why = split(f)
    assert parts == [3, 3]
    assert why.endswith(f": it {SENTENCES[f]}")


def test_two_links_alone_may_be_chance():
    assert split(draws, couplings=5)[0] == [3]


def test_attention_without_dropout_does_not_draw():
    def attends(x, w):
        q = branch(x, w).view(1, 2, 8, 8)
        return torch.nn.functional.scaled_dot_product_attention(q, q, q).reshape(8, 16)

    assert split(attends) == ([7], None)


def test_what_the_user_keeps_is_kept():
    def net(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws)
        return a * b

    graph = make_fx(net, tracing_mode="fake")(*inputs(8, 16), *weights(7)).graph
    product = [node for node in graph.nodes if node.target is torch.ops.aten.mm.default][3]
    product.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    parts, why = recomputable(find_chains(graph.nodes)[0])
    assert [len(part) for part in parts] == [3, 3]
    assert why == f"{product.name}: it is marked to be kept, or reads an input that is overwritten"
