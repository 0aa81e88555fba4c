"""Couplings beside sums: affine and momentum ones, and what their graphs look like."""

import pytest
import torch
from expecttest import TestCase
from torch.nn import functional as F

from .test_reversible import (
    ASKED,
    FORCED,
    OFF,
    assert_gradients_match,
    branch,
    inputs,
    links,
    weights,
)
from .tools import gradients, leaf, partitioned

STATE = 8 * 16 * 4
AFFINE = {
    "exponential": lambda s, b, w: s * (0.5 * branch(b, w)).exp() + (b @ w).sin(),
    "clamped": lambda s, b, w: s * (b @ w).clamp(-1, 1).exp() - branch(b, w),
    "gate": lambda s, b, w: ((b @ w).sigmoid() + 0.5) * s + branch(b, w),
    "number": lambda s, b, w: s * 0.9 + branch(b, w),
    "sum first": lambda s, b, w: (s + branch(b, w)) * branch(b, w).exp(),
    "negated": lambda s, b, w: branch(b, w) - s * 0.9,
    "quotient": lambda s, b, w: s / 1.1 + branch(b, w),
    "softplus": lambda s, b, w: s * (F.softplus(b @ w) + 0.5) + branch(b, w),
    "addcmul": lambda s, b, w: torch.addcmul(s, branch(b, w), b, value=0.5),
    "both halves of one product": lambda s, b, w: (
        s * (2 * (b @ w)[:, :8].repeat(1, 2)).tanh().exp() + (b @ w)[:, 8:].repeat(1, 2)
    ),
}
ANCHORS = dict.fromkeys(AFFINE, 0) | {
    **{"clamped": 2, "gate": 1, "sum first": 3, "both halves of one product": 3, "softplus": 1},
    "addcmul": 2,
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
    # Where the scale is nearly zero, what it is divided out of has lost the state. A parameter reads
    # no state, so that its first product is itself the state before the first link.
    scaled = 5 if name == "parameter" else 6

    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, UNBOUNDED[name](a, b, w)
        return a * b

    given = *inputs(8, 16), *weights(6)
    (note,) = partitioned(f, *given, policy=FORCED).plan.notes
    assert note.endswith(
        f"; 5 states are kept on the way, lest rounding add up: {scaled} links scale by what may be "
        "next to nothing, as far as their operators tell"
    )
    assert_gradients_match(f, *given)


def test_away_from_the_nearer_end():
    """All of a lerp with weights but its sign, and so none."""

    def f(v, x, mask, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            h = branch(x, w)
            v = torch.where(mask > 0, h, v) - (mask.sigmoid() + 0.5) * (h - v)
            x = x + v
        return v * x

    given = *inputs(8, 16), torch.randn(8, 16), *weights(6)
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


@pytest.mark.parametrize(
    "velocity",
    [
        lambda v, h, n: torch.add(v * 0.9, h, alpha=1 / n),
        lambda v, h, n: torch.lerp(v, h, 1 / n),
        lambda v, h, n: (h * torch.add(v.tanh() + 2, v.new_ones(()), alpha=n)) + v,
    ],
    ids=["alpha", "lerp", "within a scale"],
)
def test_weights_that_change_with_a_size(velocity):
    def f(v, x, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            v = velocity(v, branch(x, w), x.size(0))
            x = x + v
        return v * x

    given = *inputs(8, 16), *weights(4)
    found, plain = (gradients(f, *given, policy=p, dynamic=True) for p in (FORCED, OFF))
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


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
