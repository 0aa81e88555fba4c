"""Couplings as users also write them: addmm, masks, wider sums, divisions, slices written to."""

import pytest
import torch
from expecttest import TestCase

from fxmem.passes.joint.reversible.products import split
from fxmem.passes.joint.reversible.scatters import concatenate

from .test_reversible import ASKED, assert_gradients_match, branch, inputs, links, weights
from .test_reversible_spellings import STATE, graph_of
from .tools import leaf, partitioned


def last_two(plan):
    """Return the bytes of two states in the dtype that they are carried in."""
    return 2 * STATE * (2 if any("float64 for float32" in note for note in plan.notes) else 1)


# Each with how many states are kept beside the last two, masks and what is wider in their places.
COUPLINGS = {
    "addmm": (lambda s, b, w: torch.addmm(s, branch(b, w), w), 0),
    "addmm, alpha": (lambda s, b, w: torch.addmm(s, branch(b, w), w, alpha=0.5), 0),
    "addmm, beta": (lambda s, b, w: torch.addmm(s, branch(b, w), w, beta=-0.9, alpha=0.5), 0),
    "baddbmm, beta": (
        lambda s, b, w: torch.baddbmm(s[None], branch(b, w)[None], w[None], beta=0.9).squeeze(0),
        0,
    ),
    "baddbmm": (lambda s, b, w: torch.baddbmm(s[None], branch(b, w)[None], w[None]).squeeze(0), 0),
    "masked": (lambda s, b, w: torch.where(w[:8] > 0, s + branch(b, w), s), 1),
    "masked, the other way": (lambda s, b, w: torch.where(w[:8] > 0, s, branch(b, w) - s), 1),
    "wider": (lambda s, b, w: (s.double() + branch(b, w).double()).to(s.dtype), 0),
    "wider, minus": (lambda s, b, w: (branch(b, w).double() - s.double()).to(s.dtype), 0),
    "quotient": (lambda s, b, w: (s - branch(b, w)) / (branch(b, w) + 2), 3),
    "quotient first": (lambda s, b, w: s / branch(b, w).exp() + branch(b, w), 2),
    "factor of addcmul": (
        lambda s, b, w: torch.addcmul(branch(b, w), s, (0.5 * branch(b, w)).exp()),
        0,
    ),
    "addcdiv": (lambda s, b, w: torch.addcdiv(s, branch(b, w), branch(b, w).exp(), value=0.5), 0),
}


def coupled(name):
    couple = COUPLINGS[name][0]

    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, couple(a, b, w)
        return a * b

    return f


@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings(name):
    f, given = coupled(name), (*inputs(8, 16), *weights(6))
    plan = partitioned(f, *given, policy=ASKED).plan
    assert links(plan) == [6]
    assert plan.after <= last_two(plan) + COUPLINGS[name][1] * STATE
    assert_gradients_match(f, *given, policy=ASKED)


@pytest.mark.parametrize("name", ["addmm", "masked", "wider"])
def test_states_that_are_carried_wider(name):
    """Neither rounded on the way, for one that computes them again reads them rounded."""
    given = [t.detach().bfloat16().requires_grad_() for t in (*inputs(8, 16), *weights(24))]
    (note,) = partitioned(coupled(name), *given, policy=ASKED).plan.notes
    assert note == (
        "reversible: 24 links are recomputed from their last two states, float32 for bfloat16"
    )
    assert_gradients_match(coupled(name), *given, policy=ASKED)


def test_skips_without_a_gradient():
    def f(a, b, *ws):
        x, y = a.sin(), b.cos()
        for w in ws:
            x, y = y, 0.9 * x.detach() + branch(y, w)
        return x * y + a * b

    given = *inputs(8, 16), *weights(6)
    assert links(partitioned(f, *given, policy=ASKED).plan) == [6]
    assert_gradients_match(f, *given, policy=ASKED)


def test_a_divisor_without_bound_keeps_its_states():
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, a / (b @ w).exp() + branch(b, w)
        return a * b

    given = *inputs(8, 16), *weights(6)
    (note,) = partitioned(f, *given, policy={"rules": {"reversible": {"force": True}}}).plan.notes
    assert "; 5 states are kept on the way" in note
    assert "6 links scale by what may be next to nothing" in note


def test_a_sum_that_a_narrower_type_rounds_is_no_link():
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, (a.half() + branch(b, w).half()).to(a.dtype)
        return a * b

    plan = partitioned(f, *inputs(8, 16), *weights(6), policy=ASKED).plan
    assert links(plan) == []


def test_a_bias_is_no_state():
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, torch.addmm(w[0], b, w).tanh()
        return a * b

    assert partitioned(f, *inputs(8, 16), *weights(6), policy=ASKED).plan.notes == ()


def into_slices(x, w, v):
    x = x.clone()
    x[:, :16] += branch(x[:, 16:].clone(), w)
    x = x.clone()
    x[:, 16:] += branch(x[:, :16].clone(), v)
    return x


def without_copies(x, w, v):
    x[:, :16] += branch(x[:, 16:].clone(), w)
    x[:, 16:] -= branch(x[:, :16].clone(), v)
    return x


def into_an_empty_tensor(x, w, v):
    a, b = x.chunk(2, -1)
    x = torch.empty_like(x)
    x[:, :16] = y = a + branch(b, w)
    x[:, 16:] = b + branch(y, v)
    return x


def into_elements(x, w, v):
    x = x.clone()
    x[0] = x[0] + branch(x[1].clone(), w)
    x = x.clone()
    x[1] += branch(x[0].clone(), v)
    return x


def scattered(x, w, v):
    x = torch.select_scatter(x, x[0] + branch(x[1], w), 0, 0)
    return torch.select_scatter(x, x[-1] + branch(x[0], v), 0, -1)


BLOCKS = {
    into_slices: lambda *streams: torch.cat(streams, -1),
    without_copies: lambda *streams: torch.cat(streams, -1),
    into_an_empty_tensor: lambda *streams: torch.cat(streams, -1),
    into_elements: lambda *streams: torch.stack(streams),
    scattered: lambda *streams: torch.stack(streams),
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_streams_written_into_one_tensor(block):
    def f(x, *ws):
        x = BLOCKS[block](x.sin(), x.cos())
        for w, v in zip(ws[::2], ws[1::2], strict=True):
            x = block(x, w, v)
        return x.sin()

    given = leaf(8, 16), *weights(6)
    plan = partitioned(f, *given, policy=ASKED).plan
    assert links(plan) == [6]
    assert plan.after == last_two(plan)
    assert_gradients_match(f, *given, policy=ASKED)


class TestGraph(TestCase):
    def test_scatters_are_concatenations(self):
        def f(x, y):
            x = torch.slice_scatter(x, y, 1, 4, 8)
            return torch.select_scatter(x.view(2, 4, 16), y.view(4, 8).repeat(1, 2), 0, 1)

        graph = graph_of(f, leaf(8, 16), leaf(8, 4))
        concatenate(graph)
        self.assertExpectedInline(
            "\n".join(str(node.target) for node in graph.nodes),
            """\
x_1
y_1
aten.slice.Tensor
aten.slice.Tensor
aten.cat.default
aten.view.default
aten.view.default
aten.repeat.default
aten.select.int
aten.cat.default
aten.view.default
output""",
        )

    def test_products_and_sums(self):
        def f(a, x, w, bias):
            scaled = torch.addmm(a, x, w, alpha=0.5, beta=0.9)
            return scaled + torch.addmm(a, x, w, beta=0) + torch.addmm(bias, x, w, beta=2)

        graph = graph_of(f, *inputs(8, 16), *weights(1), leaf(16))
        split(graph)
        self.assertExpectedInline(
            "\n".join(str(node.target) for node in graph.nodes),
            """\
a_1
x_1
w_1
bias_1
aten.mm.default
aten.mul.Tensor
aten.add.Tensor
aten.addmm.default
aten.add.Tensor
aten.addmm.default
aten.add.Tensor
output""",
        )
