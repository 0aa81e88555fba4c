"""Streams that are carried as one tensor, and streams in another memory order."""

import pytest
import torch

from .test_reversible import ASKED, FORCED, assert_gradients_match, branch, inputs, links, weights
from .tools import leaf, partitioned

STATE = 8 * 16 * 4


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
    assert g.plan.after == 2 * STATE  # the last two, of which both as one is a copy made again
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
