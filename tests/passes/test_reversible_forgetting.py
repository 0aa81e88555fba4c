"""Streams that forget, each step multiplying them by a number: integers, undone bit for bit."""

import math

import pytest
import torch

from .test_reversible import OFF, branch, inputs, links, weights
from .test_reversible_exact import as_dtype, exact
from .tools import gradients, partitioned, relative


def momentum(x, v, *ws, gamma=0.9, then=0.9, couple=torch.add):
    for i, w in enumerate(ws):
        scale = then if i % 2 else gamma
        v = couple(scale * v, (1 - scale) * branch(x, w))
        x = x + v
    return (x * v).sin()


def coupled(a, b, *ws):
    """Both streams forget, each by its own number; states are 3-D and other than contiguous."""
    a, b = (s.sin().view(4, 2, 16).transpose(0, 1) for s in (a, b))
    for i, w in enumerate(ws):
        a, b = b, torch.sub((0.75 if i % 2 else 0.5) * a, branch(b, w), alpha=0.3)
    return a * b


def broadcast(x, v, *ws):
    for i, w in enumerate(ws):
        v = 0.5 * v + 0.5 * (branch(x, w).mean() if i % 2 else branch(x, w).mean(0, keepdim=True))
        x = x + v
    return x * v


def never(x, v, *ws):
    for w in ws:
        v = 1.0 * v + branch(x, w)
        x = x + v
    return x * v


def viewed(a, b, *ws):
    """Views of states are legal for their own strides alone."""
    a, b = (s.sin().view(4, 2, 16).transpose(0, 1) for s in (a, b))
    for w in ws:
        flat = b.transpose(0, 1).view(8, 16)
        a, b = b, 0.5 * a + branch(flat, w).view(4, 2, 16).transpose(0, 1)
    return a * b


def mixed(x, v, *ws):
    v = v.bfloat16()
    for w in ws:
        v = 0.5 * v + 0.5 * branch(x, w).bfloat16()
        x = x + v
    return x


@pytest.mark.parametrize(
    "f, dtype",
    [
        *((f, torch.float32) for f in (momentum, coupled, broadcast, never, viewed, mixed)),
        *((momentum, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)),
    ],
)
def test_scaled_streams_come_back_bit_for_bit(f, dtype):
    given = as_dtype((*inputs(8, 16), *weights(5)), dtype)
    found, kept = (gradients(f, *given, policy=exact(anchor=n)) for n in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    true = gradients(f, *as_dtype(given, torch.float64), policy=OFF)
    off, plain = (max(map(relative, g, true)) for g in (found, gradients(f, *given, policy=OFF)))
    # The grid is 2^-20 of the largest element; of a bf16 stream it is finer than its rounding.
    assert off < max(1.5 * plain, 2**-8 if f is mixed else 1e-4)
    (found,) = links(partitioned(f, *given, policy=exact()).plan)
    assert found == (5 if f in (coupled, viewed) else 10)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_momentum_keeps_the_bits_that_it_forgets(gamma):
    """log2(1 / gamma) bits an element a layer, and no state more for more layers."""

    def f(x, v, *ws):
        return momentum(x, v, *ws, gamma=gamma, then=gamma)

    given = *inputs(64, 16), *weights(14)
    plans = {n: partitioned(f, *given[: n + 2], policy=exact()).plan for n in (4, 14)}
    assert all(links(plan) == [2 * n] for n, plan in plans.items())
    bits = 8 * (plans[14].after - plans[4].after) / (10 * 64 * 16)
    assert bits == pytest.approx(math.log2(1 / gamma), rel=0.1)


def test_streams_that_are_scaled_otherwise_keep_their_floats():
    given = *inputs(8, 16), *weights(4)

    def f(x, v, *ws):
        return momentum(x, v, *ws, then=0.8)

    assert "does more than add" in partitioned(f, *given, policy=exact()).plan.notes[0]
    torch._dynamo.reset()
    for state in given[:2]:
        torch._dynamo.mark_dynamic(state, 0)
    unsized, plain = (gradients(momentum, *given, policy=p) for p in (exact(), OFF))
    assert all(relative(a, b) < 1e-5 for a, b in zip(unsized, plain, strict=True))
    assert "does more than add" in partitioned(momentum, *given, policy=exact()).plan.notes[0]


def test_momentum_that_overflows_is_no_number():
    def over(x, v, *ws):
        return momentum(x, v, *ws, couple=lambda v, f: v + 3e5 * f).sum()

    given = *inputs(8, 16), *weights(5)
    assert gradients(momentum, *given, policy=exact())[0].isfinite().all()
    value, *slopes = gradients(over, *given, policy=exact())
    assert value.isnan() and all(g.isnan().any() for g in slopes)
