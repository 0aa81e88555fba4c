"""A reversible transformer keeps the same at every depth, and its gradients are right."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxmem.policy import Policy, PolicyError

from .test_reversible import ASKED, OFF, links
from .tools import gradients, leaf, partitioned, relative


class Block(nn.Module):
    """One half of a coupling: causal attention, or an MLP, behind a norm."""

    def __init__(self, d, attends, p):
        super().__init__()
        self.attends, self.norm = attends, nn.LayerNorm(d)
        self.into = nn.Linear(d, 3 * d if attends else 4 * d)
        self.out, self.drop = nn.Linear(d if attends else 4 * d, d), nn.Dropout(p)

    def forward(self, x):
        h = self.into(self.norm(x))
        if self.attends:
            q, k, v = h.unflatten(-1, (3, 4, -1)).transpose(1, 3).unbind(2)
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        else:
            h = F.gelu(h)
        return self.drop(self.out(h))


class TwoStreams(nn.Module):
    """A reversible transformer: the embedding is split in two, and joined at the end."""

    def __init__(self, layers, d=32, p=0.0, shared=False):
        super().__init__()
        self.embed, self.head = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        one = [Block(d, True, p), Block(d, False, p)]
        many = [b for _ in range(layers - 1) for b in (Block(d, True, p), Block(d, False, p))]
        self.blocks = nn.ModuleList(one * layers if shared else one + many)

    def forward(self, x):
        a, b = self.embed(x).chunk(2, -1)
        for f, g in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            a = a + f(b)
            b = b + g(a)
        return self.head(torch.cat([a, b], -1))


def test_transformer_keeps_the_same_at_every_depth():
    def graph(layers):
        torch._dynamo.reset()
        return partitioned(TwoStreams(layers), leaf(2, 16, 32), policy=ASKED)

    depths = (4, 8, 16)
    graphs = [graph(layers) for layers in depths]
    assert [links(g.plan) for g in graphs] == [[2 * layers] for layers in depths]
    # The last two states, of which the gradient of the head's weight reads a copy made again.
    assert [g.plan.after for g in graphs] == [2 * 2 * 16 * 32 * 4] * 3


def test_blocks_may_share_their_weights():
    model, x = TwoStreams(4, shared=True), leaf(2, 16, 32)
    assert links(partitioned(model, x, policy=ASKED).plan) == [8]
    found, plain = (gradients(model, x, policy=p) for p in (ASKED, OFF))
    exact = gradients(model.double(), x.detach().double().requires_grad_())
    assert error(found, exact) <= 2 * error(plain, exact)


def error(found, exact):
    return max(relative(a.double(), b) for a, b in zip(found, exact, strict=True))


def test_transformer_gradients():
    model, x = TwoStreams(8), leaf(2, 16, 32)
    found, plain = (gradients(model, x, policy=p) for p in (ASKED, OFF))
    exact = gradients(model.double(), x.detach().double().requires_grad_())
    assert error(found, exact) <= 2 * error(plain, exact)


def sharing(keep, **options):
    return {"rules": {"reversible": {"keep": keep, "float64": False, **options}}}


def again(graph):
    """Which products the backward repeats: attention, and those with a bias, which no other has."""
    attention = "aten._scaled_dot_product_flash_attention_for_cpu"
    return [graph.backward.ops[name] for name in (attention, "aten.addmm")]


def test_products_are_kept_for_a_share_of_their_bytes():
    def graph(policy):
        torch._dynamo.reset()
        return partitioned(TwoStreams(4), leaf(2, 16, 32), policy=policy)

    none, some, most = (graph(p) for p in (ASKED, sharing(0.2), sharing(1)))
    # The last product of the first link is read by nothing: no state is made of it.
    assert [again(g) for g in (none, most)] == [[4, 4 * 4 - 1], [0, 0]]
    row = 2 * 16 * 4
    every = 4 * (32 * (3 + 1 + 1 + 4 + 1) + 4) * row - 32 * row
    assert most.plan.after == none.plan.after + every
    assert 0 < some.plan.after - none.plan.after <= 0.2 * every
    assert f"{4 + 15 - sum(again(some))} products of 19 are kept" in some.plan.notes[-1]
    # The last product of an MLP reads most for a byte that it writes; attention comes next.
    assert again(some) == [1, 4 * 4 - 1 - 4]


@pytest.mark.parametrize("options", [{}, {"exact": True}])
def test_gradients_with_products_kept(options):
    model, x = TwoStreams(4), leaf(2, 16, 32)
    found, plain = (gradients(model, x, policy=sharing(keep, **options)) for keep in (0.3, 1e-6))
    exact = gradients(model.double(), x.detach().double().requires_grad_())
    assert error(found, exact) <= 2 * error(plain, exact)
    if options:
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_a_share_is_at_most_all():
    with pytest.raises(PolicyError, match="keep"):
        Policy(rules={"reversible": {"keep": 1.5}})
