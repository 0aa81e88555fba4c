"""Spellings of couplings: streams in a stack, views between links, weights of a lerp, in place."""

import pytest
import torch
from expecttest import TestCase
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

from fxmem.passes.graph import stable_text
from fxmem.passes.joint.reversible.chains import find_chains
from fxmem.passes.joint.reversible.parts import see_through
from fxmem.passes.joint.reversible.recomputable import SHORTEST

from .test_reversible import FORCED, NONE, assert_gradients_match, branch, inputs, links, weights
from .tools import leaf, partitioned, renumbered

STATE = 8 * 16 * 4


def by_unbind(x, w, v):
    a, b = x.unbind(0)
    a = a + branch(b, w)
    return torch.stack([a, branch(a, v) + b])


def by_index(x, w, v):
    a = x[0] + branch(x[1], w)
    return torch.stack((a, x[1] + branch(a, v)))


STACKS = {"unbind": by_unbind, "index": by_index}


def stacked(block):
    def f(x, *ws):
        x = torch.stack([x.sin(), x.cos()])
        for w, v in zip(ws[::2], ws[1::2], strict=True):
            x = block(x, w, v)
        return x.sin()

    return f


def graph_of(f, *given):
    """The graph as the partitioner sees it, without its backward."""
    table = select_decomp_table()
    return make_fx(f, tracing_mode="fake", decomposition_table=table)(*given).graph


def found(f, *given):
    graph = graph_of(f, *given)
    see_through(graph)
    graph.eliminate_dead_code()
    return [len(chain) for chain in find_chains(graph.nodes) if len(chain) >= SHORTEST]


@pytest.mark.parametrize("name", STACKS)
def test_streams_in_a_stack(name):
    f, given = stacked(STACKS[name]), (leaf(8, 16), *weights(4))
    g = partitioned(f, *given, policy=FORCED)
    assert links(g.plan) == [4]
    assert g.plan.after == 2 * STATE  # the last two, of which both as one is a copy made again
    assert_gradients_match(f, *given)


def test_streams_stacked_along_other_dimensions():
    def middle(x, w, v):
        a, b = x[:, 0], x[:, 1]
        a = a + branch(b, w)
        return torch.stack([a, b + branch(a, v)], 1)

    def last(x, w, v):
        a, b = x.unbind(-1)
        a = a + branch(b, w)
        return torch.stack([a, b + branch(a, v)], -1)

    for dim, block in ((1, middle), (-1, last)):

        def f(x, *ws, dim=dim, block=block):
            x = torch.stack([x.sin(), x.cos()], dim)
            for w, v in zip(ws[::2], ws[1::2], strict=True):
                x = block(x, w, v)
            return x

        assert found(f, leaf(8, 16), *weights(6)) == [6]


def test_stacks_that_are_something_else():
    def concatenated(x, *ws):
        """Along a dimension that is viewed otherwise than it was put together."""
        a, b = x.sin(), x.cos()
        for w in ws:
            whole = torch.cat([a, b], 1).view(8, 16, 2)
            a, b = whole[..., 1], whole[..., 0] + branch(whole[..., 1], w)
        return a * b

    def three(x, *ws):
        """The third stream is dropped, and a mean of all stands in its place."""
        a, b = x.sin(), x.cos()
        for w in ws:
            whole = torch.stack([a, b, a * b]).mean(0, keepdim=True).expand(2, 8, 16)
            a, b = whole[1], whole[0] + branch(whole[1], w)
        return a * b

    assert found(concatenated, leaf(8, 16), *weights(6)) == []
    assert found(three, leaf(8, 16), *weights(6)) == []


VIEWS = {
    "view": (lambda s: s.view(2, 4, 16), lambda s: s.view(8, 16)),
    "reshape": (lambda s: s.reshape(4, 32), lambda s: s.reshape(8, 16)),
    "transpose": (lambda s: s.transpose(0, 1), lambda s: s.transpose(0, 1)),
    "permute": (lambda s: s.permute(1, 0), lambda s: s.permute(1, 0)),
    "t": (lambda s: s.t(), lambda s: s.t()),
    "unsqueeze": (lambda s: s.unsqueeze(1), lambda s: s.squeeze(1)),
    "view of a transpose": (lambda s: s.t().reshape(4, 32), lambda s: s.reshape(16, 8).t()),
}


def viewed(name):
    there, back = VIEWS[name]

    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, back(there(a) + there(branch(b, w)))
        return a * b

    return f


@pytest.mark.parametrize("name", VIEWS)
def test_views_between_links_are_found(name):
    assert found(viewed(name), *inputs(8, 16), *weights(5)) == [5]


@pytest.mark.parametrize("name", ["view", "view of a transpose"])
def test_views_between_links(name):
    given = *inputs(8, 16), *weights(5)
    g = partitioned(viewed(name), *given, policy=FORCED)
    assert links(g.plan) == [5]
    assert g.plan.after == 2 * STATE
    assert_gradients_match(viewed(name), *given)


def test_sizes_that_change_are_not_written_into_a_view():
    given = *inputs(8, 16), *weights(5)
    f = viewed("unsqueeze")
    torch._dynamo.mark_dynamic(given[0], 0)
    torch._dynamo.mark_dynamic(given[1], 0)
    assert partitioned(f, *given, policy=FORCED, dynamic=True).plan.notes == (NONE,)


WEIGHTS = {
    "parameter": lambda v, h, g: torch.lerp(v, h, g),
    "written out": lambda v, h, g: v + g * (h - v),
    "written out, commuted": lambda v, h, g: v + (h - v) * g,
    "written out, the other way": lambda v, h, g: v - g * (v - h),
    "of one": lambda v, h, g: torch.lerp(v, h, torch.full_like(v[0], 0.1)),
    "of one, far": lambda v, h, g: torch.lerp(h, v, torch.full_like(v[0], 0.9)),
    "of one, from the other end": lambda v, h, g: h + 0.4 * (v - h),
    "bounded": lambda v, h, g: v + 0.5 * g.sigmoid() * (h - v),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_momentum_with_a_tensor_of_weights(name):
    def f(v, x, g, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            v = WEIGHTS[name](v, branch(x, w), g)
            x = x + v
        return v * x + g

    gate = torch.linspace(-0.2, 0.8, 16).requires_grad_()
    given = *inputs(8, 16), gate, *weights(4)
    assert found(f, *given) == [8]
    if name in ("parameter", "of one, far", "bounded"):
        (note,) = partitioned(f, *given, policy=FORCED).plan.notes
        # Weights that may be one leave nothing of the velocity to come back.
        assert ("next to nothing" in note) == (name == "parameter")
        assert_gradients_match(f, *given)


def test_in_place():
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w, v in zip(ws[::2], ws[1::2], strict=True):
            a = a.clone()
            a += branch(b, w)
            b = b.clone()
            b.add_(branch(a, v), alpha=0.5)
        return a * b

    given = *inputs(8, 16), *weights(4)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [4]
    assert_gradients_match(f, *given)


class TestGraph(TestCase):
    def test_seen_through_a_stack(self):
        def f(x, w):
            a, b = torch.stack([x.sin(), x.cos()]).unbind(0)
            return a + branch(b, w)

        graph = graph_of(f, leaf(8, 16), *weights(1))
        see_through(graph)
        self.assertExpectedInline(
            stable_text(graph),
            """\
x_1: float32[8, 16]
w_1: float32[16, 16]
sin: float32[8, 16] = aten.sin.default(x_1)
cos: float32[8, 16] = aten.cos.default(x_1)
mm: float32[8, 16] = aten.mm.default(cos, w_1)
tanh: float32[8, 16] = aten.tanh.default(mm)
add: float32[8, 16] = aten.add.Tensor(sin, tanh)
return add""",
        )

    def test_inverse_of_a_view(self):
        g = partitioned(viewed("view"), *inputs(8, 16), *weights(3), policy=FORCED)
        made = ("sub_tensor", "view_default", "clone_default")
        lines = renumbered(g.backward.text).splitlines()
        self.assertExpectedInline(
            "\n".join(line for line in lines if line.startswith(made)),
            """\
sub_tensor: float32[2, 4, 16] = aten.sub.Tensor(add, view_6)
view_default: float32[8, 16] = aten.view.default(sub_tensor, [8, 16])""",
        )
