"""Couplings beside sums: affine and momentum ones, and streams that are carried as one tensor."""

import pytest
import torch
from expecttest import TestCase

from .test_reversible import (
    ASKED,
    FORCED,
    assert_gradients_match,
    branch,
    inputs,
    links,
    weights,
)
from .tools import leaf, partitioned

STATE = 8 * 16 * 4
AFFINE = {
    "exponential": lambda s, b, w: s * (0.5 * branch(b, w)).exp() + (b @ w).sin(),
    "clamped": lambda s, b, w: s * (b @ w).clamp(-1, 1).exp() - branch(b, w),
    "gate": lambda s, b, w: ((b @ w).sigmoid() + 0.5) * s + branch(b, w),
    "number": lambda s, b, w: s * 0.9 + branch(b, w),
    "sum first": lambda s, b, w: (s + branch(b, w)) * branch(b, w).exp(),
    "negated": lambda s, b, w: branch(b, w) - s * 0.9,
    "quotient": lambda s, b, w: s / 1.1 + branch(b, w),
    "addcmul": lambda s, b, w: torch.addcmul(s, branch(b, w), b, value=0.5),
    "both halves of one product": lambda s, b, w: (
        s * (2 * (b @ w)[:, :8].repeat(1, 2)).tanh().exp() + (b @ w)[:, 8:].repeat(1, 2)
    ),
}
ANCHORS = dict.fromkeys(AFFINE, 0) | {
    **{"clamped": 2, "gate": 1, "sum first": 3, "both halves of one product": 2},
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine(name):
    def f(a, b, *ws):
        a, b = a.sin() * 1.0, b.cos() * 1.0
        for w in ws:
            a, b = b, AFFINE[name](a, b, w)
        return a * b

    given = *inputs(8, 16), *weights(6)
    g = partitioned(f, *given, policy=ASKED)
    assert links(g.plan) == [6]
    # Beside the last two, as many as the least that the scale may be requires.
    assert g.plan.after <= (2 + ANCHORS[name]) * STATE
    assert_gradients_match(f, *given)


UNBOUNDED = {
    "exponential": lambda s, b, w: s * (0.1 * (b @ w)).exp() + branch(b, w),
    "gate": lambda s, b, w: s * (b @ w).sigmoid() + branch(b, w),
    "parameter": lambda s, b, w: s * w[0] + branch(b, w),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_states_behind_a_scale_without_bound_are_kept(name):
    # Where the scale is nearly zero, what it is divided out of has lost the state.
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, UNBOUNDED[name](a, b, w)
        return a * b

    given = *inputs(8, 16), *weights(6)
    (note,) = partitioned(f, *given, policy=ASKED).plan.notes
    assert note.endswith("; 5 states are kept on the way, lest rounding add up")
    assert_gradients_match(f, *given, policy=ASKED)


VELOCITIES = {
    "sum": lambda v, h: 0.9 * v + 0.1 * h,
    "difference": lambda v, h: v + 0.1 * (h - v),
    "other difference": lambda v, h: v - 0.1 * (v - h),
    "lerp": lambda v, h: torch.lerp(v, h, 0.1),
    "lerp from the other end": lambda v, h: torch.lerp(h, v, 0.9),
    "alpha": lambda v, h: torch.add(v * 0.9, h, alpha=0.1),
}


@pytest.mark.parametrize("name", VELOCITIES)
def test_momentum(name):
    def f(v, x, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            v = VELOCITIES[name](v, branch(x, w))
            x = x + v
        return v * x

    given = *inputs(8, 16), *weights(6)
    g = partitioned(f, *given, policy=ASKED)
    assert links(g.plan) == [12]
    assert g.plan.after == 2 * STATE
    assert_gradients_match(f, *given)


def test_momentum_that_starts_from_zero():
    def f(x, *ws):
        v = torch.zeros_like(x)
        for w in ws:
            v = 0.9 * v + 0.1 * branch(x, w)
            x = x + v
        return x.sin()

    given = leaf(8, 16), *weights(6)
    assert links(partitioned(f, *given, policy=ASKED).plan)[0] >= 11
    assert_gradients_match(f, *given)


def by_chunk(x, w, v):
    a, b = x.chunk(2, -1)
    a = a + branch(b, w)
    return torch.cat([a, b + branch(a, v)], -1)


def by_slice(x, w, v):
    a, b = x[:, :16], x[:, 16:]
    a = a + branch(b, w)
    return torch.cat((a, b + branch(a, v)), dim=1)


def by_split(x, w, v):
    a, b = x.split([16, 16], 1)
    b = b + branch(a, v)
    return torch.cat([a + branch(b, w), b], 1)


def by_swap(x, w, v):
    for u in (w, v):
        a, b = x.chunk(2, 1)
        x = torch.cat([b, a + branch(b, u)], 1)
    return x


@pytest.mark.parametrize("block", [by_chunk, by_slice, by_split, by_swap])
def test_streams_carried_as_one_tensor(block):
    def f(x, *ws):
        x = torch.cat([x.sin(), x.cos()], -1)
        for w, v in zip(ws[::2], ws[1::2], strict=True):
            x = block(x, w, v)
        return x.sin()

    given = leaf(8, 16), *weights(8)
    g = partitioned(f, *given, policy=ASKED)
    assert links(g.plan) == [8]
    assert g.plan.after == 4 * STATE  # the last two, and both as one
    assert_gradients_match(f, *given)


def test_parts_that_lie_otherwise_in_memory():
    # cat makes them contiguous, and a view of the chunk relies on it.
    def f(x, *ws):
        a, b = x.sin().t(), x.cos().t()
        for w in ws:
            whole = torch.cat([a, b], 0)
            a, b = whole[16:], whole[:16] + branch(whole[16:].view(-1).view(16, 16), w)
        return a * b

    given = leaf(16, 16), *weights(5)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [5]
    assert_gradients_match(f, *given)


def test_states_in_another_memory_order():
    def f(a, b, *ws):
        a, b = a.sin().t(), b.cos().t()
        for w in ws:
            a, b = b, a + branch(b, w).view(-1).view(16, 16)
        return a * b

    given = *inputs(16, 16), *weights(5)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [5]
    assert_gradients_match(f, *given)


class TestGraph(TestCase):
    def test_affine_inverse(self):
        def f(a, b, *ws):
            a, b = a.sin(), b.cos()
            for w in ws:
                a, b = b, branch(b, w) + (b @ w).sigmoid().add(1) * a  # commuted
            return a * b

        g = partitioned(f, *inputs(8, 16), *weights(4), policy=FORCED)
        # Each state: the sum undone, then the product. The first two are sines of inputs.
        self.assertExpectedInline(
            inverses(g),
            """\
sub_tensor: float32[8, 16] = aten.sub.Tensor(add_7, tanh_4)
div_tensor: float32[8, 16] = aten.div.Tensor(sub_tensor, add_20)
sub_tensor_1: float32[8, 16] = aten.sub.Tensor(add_5, tanh_5)
div_tensor_1: float32[8, 16] = aten.div.Tensor(sub_tensor_1, add_21)""",
        )

    def test_multi_use(self):
        def f(a, b, *ws):
            a, b = a.sin(), b.cos()
            for w in ws[:2]:
                a, b = b, a + branch(b, w)
            side = b.exp()
            for w in ws[2:]:
                a, b = b, a + branch(b, w)
            return a * b, side.sum()

        g = partitioned(f, *inputs(8, 16), *weights(5), policy=FORCED)
        # The last two states, and the one that something else is made of.
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.add float32[8, 16] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.add float32[8, 16] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.add float32[8, 16] 512 -> 512: kept: preset 'exact' keeps it exactly""",
        )


def inverses(g):
    wanted = ("aten.sub.Tensor", "aten.div")
    lines = (line for line in g.backward.text.splitlines() if "_tensor" in line.split(":")[0])
    return "\n".join(line for line in lines if any(op in line for op in wanted))
