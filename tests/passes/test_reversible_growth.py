"""States that may grow from link to link: found by what holds a branch, kept more often, and said."""

import pytest
import torch
from torch.nn import functional as F

from .test_reversible import OFF, chain, inputs, weights
from .test_reversible_anchors import as_dtype, asked, error
from .tools import gradients, partitioned

HELD = {
    "tanh": lambda x, w: torch.tanh(x @ w) @ w,
    "layer norm": lambda x, w: F.relu(F.layer_norm(x, (16,)) @ w),
    "RMS norm": lambda x, w: F.rms_norm(x, (16,)) @ w,
    "RMS norm, by hand": lambda x, w: (x * (x.square().mean(-1, True) + 1e-6).rsqrt()) @ w,
    "RMS norm, by hand again": lambda x, w: (x / (x.square().mean(-1, True).sqrt() + 1e-6)) @ w,
    "power": lambda x, w: (x * (x.pow(2).mean(-1, True) + 1e-6).pow(-0.5)) @ w,
    "group norm": lambda x, w: F.group_norm(x, 4) @ w,
    "normalised": lambda x, w: F.normalize(x, dim=-1) @ w,
    "clamped": lambda x, w: x.clamp(-1, 1) @ w,
    "softmax": lambda x, w: (x @ w).softmax(-1) @ w,
    "both": lambda x, w: torch.tanh(x @ w) * x.cos(),
}
FREE = {
    "ReLU": lambda x, w: F.relu(x @ w),
    "gated": lambda x, w: x * (x @ w).sigmoid(),
    "beside a norm": lambda x, w: F.layer_norm(x, (16,)) @ w + 0.1 * x,
    "clamped from below": lambda x, w: x.clamp(min=0) @ w,
    "statistics of other data": lambda x, w: (x * (w.square().mean() + 1e-6).rsqrt()) @ w,
}


def net(branch):
    def f(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws, f=branch)
        return a * b

    return f


def note(branch, depth=11):
    given = as_dtype((*inputs(8, 16), *weights(depth)), torch.float64)  # nothing is wider than that
    (found,) = partitioned(net(branch), *given, policy=asked()).plan.notes
    return found


@pytest.mark.parametrize("name", HELD)
def test_what_holds_a_branch(name):
    assert note(HELD[name]) == (
        "reversible: 11 links are recomputed from their last two states, float64"
    )


@pytest.mark.parametrize("name", FREE)
def test_what_does_not(name):
    assert note(FREE[name]).endswith(
        "; 4 states are kept on the way, lest rounding add up: 11 branches have no norm that would "
        "hold what they add, as far as their operators tell"
    )


def test_one_stream_that_is_held_holds_the_other():
    def momentum(v, x, *ws):
        v, x = v.sin(), x.cos()
        for w in ws:
            v = v + torch.tanh(x @ w)
            x = x + v
        return v * x

    (found,) = partitioned(momentum, *inputs(8, 16), *weights(8), policy=asked()).plan.notes
    assert "kept" not in found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_that_grow_by_a_half_a_link(dtype):
    """32 links make them 10^5 times larger, and the first ones come back all the same."""
    scale = 1.25 * torch.eye(16)
    given = as_dtype((*inputs(8, 16), *(scale + 0.1 * w for w in weights(32))), dtype)
    f = net(lambda x, w: F.leaky_relu(x @ w, 0.9) * 0.6)
    exact = gradients(f, *as_dtype(given, torch.float64))
    found, plain, lost = (gradients(f, *given, policy=p) for p in (asked(), OFF, asked(anchor=0)))
    assert error(found, exact) <= 1.1 * error(plain, exact) + 1e-6
    assert error(lost, exact) > 2 * error(found, exact)
