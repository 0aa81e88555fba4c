"""The gradient's error is that of the codec, and views come back as they were."""

import sys

import pytest
import torch
from torch import fx

from fxmem import ops
from fxmem.passes.pair.eligible import is_statistic

from .test_encode import EIGHT, hidden
from .tools import TestBackend, gradients, leaf, partitioned, relative, slope

ROUNDING = 2.0**-20  # of sinh, cosh and sums in float32, generously


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_is_within_the_bound_of_the_codec(bits, dtype):
    # dx = g cosh(x), which between x and what is decoded is nowhere steeper than the sinh of the
    # larger of them. The identity makes a residual of x without changing a bit of it.
    x, eye = leaf(33, 64, dtype=dtype), torch.eye(64, dtype=dtype)
    policy = {**EIGHT, "bits": bits}
    y, exact = gradients(hidden, x, eye)
    out, found = gradients(hidden, x, eye, policy=policy)
    assert torch.equal(out, y)
    _, scales = ops.encode(x.detach(), bits, 64)
    bound = ops.error_bound(scales, bits, dtype=dtype).repeat_interleave(64).view(33, 64)
    # Both gradients are rounded to dtype, after a cosh and after a product.
    slack = 4 * torch.finfo(dtype).eps + ROUNDING
    error = (found.float() - exact.float()).abs()
    most = x.detach().float().abs() + bound
    assert (error <= slope(y).float().abs() * (most.sinh() * bound + most.cosh() * slack)).all()
    assert not torch.equal(found, exact)


def test_stochastic_is_unbiased_where_the_gradient_is_linear():
    # dw = h^T g is linear in h. Each of its elements is the mean of 64 draws to 4 standard errors
    # (one in 16 000 would be outside; there are 256, and the seed is fixed).
    def linear(x, w):
        return (x @ torch.eye(64)) @ w

    policy = {"preset": "compact", "rounding": "stochastic", "bits": 4, "min_bytes": 0}
    x, w = torch.randn(32, 64), leaf(64, 4)
    inputs = (x.requires_grad_(), w)
    exact = gradients(linear, *inputs)[2]
    torch._dynamo.reset()
    run = torch.compile(linear, backend=TestBackend(policy))
    draws = torch.stack([draw(run, inputs, seed) for seed in range(64)])
    error = (draws.mean(0) - exact).abs()
    assert (error <= 4 * draws.std(0) / 8).all()
    assert draws.std(0).min() > 0


def draw(run, inputs, seed):
    torch.manual_seed(seed)
    inputs[1].grad = None
    y = run(*inputs)
    y.backward(slope(y))
    return inputs[1].grad.clone()


def test_complex_views_are_replayed():
    # The rotary embedding of the first Llama: pairs of floats are read as complex numbers.
    def rotated(x, w, turn):
        h = torch.view_as_complex((x @ w).view(16, 32, 2))
        return torch.view_as_real(h * h * turn)

    inputs = leaf(16, 64), leaf(64, 64), torch.polar(torch.ones(16, 32), torch.randn(16, 32))
    g = partitioned(rotated, *inputs, policy=EIGHT)
    assert (g.forward.ops["fxmem.encode"], g.why) == (1, [])
    exact, found = gradients(rotated, *inputs), gradients(rotated, *inputs, policy=EIGHT)
    assert relative(found[1], exact[1]) < 0.01  # the preset's promise


def test_one_view_by_two_ways():
    # getitem(split(h), 0) and slice(h) are the same elements: one code serves both.
    def twice(x, w):
        h = x @ w
        a, b = h.split(16, 1)[0], h[:, :16]
        return a @ a.t(), b @ b.t()

    inputs = leaf(64, 64), leaf(64, 64)
    g = partitioned(twice, *inputs, policy=EIGHT)
    assert g.forward.ops["fxmem.encode"] == 1
    exact, found = gradients(twice, *inputs), gradients(twice, *inputs, policy=EIGHT)
    assert max(map(relative, found[2:], exact[2:])) < 0.01  # the preset's promise


def test_graphs_longer_than_the_stack_of_python():
    graph = fx.Graph()
    node = graph.placeholder("x")
    for _ in range(sys.getrecursionlimit() + 1):
        node.meta["val"] = torch.empty(2, device="meta")
        node = graph.call_function(torch.ops.aten.sin.default, (node,))
    assert not is_statistic(node)
