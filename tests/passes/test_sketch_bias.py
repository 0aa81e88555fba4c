"""Sketched weight gradients are right on average, however spelled, and vary as they should."""

import pytest
import torch

import fxmem
from fxmem import ops
from fxmem.nn import variance
from fxmem.ops.sketches.projection import Projection

from .test_sketch import SPELLINGS, Layer, asked
from .tools import partitioned, slope

DRAWS = 2048
CASES = [(name, "hadamard") for name in SPELLINGS] + [("linear", kind) for kind in ops.KINDS]


def runner(g, layer, x):
    """A call of both halves as they are: the gradients of the weight and of what comes before it.

    Inputs stand in the order of their first use, and `first` is used before the bias.
    """
    places = g.forward.module.graph.find_nodes(op="placeholder")
    own = {1: iter((layer.first, layer.bias)), 2: iter((layer.mix, layer.weight)), 3: iter((x,))}
    ranks = [place.meta["val"].dim() for place in places]
    inputs = [next(own[rank]).detach() for rank in ranks]
    weight = len(ranks) - 1 - ranks[::-1].index(2)

    def call():
        out, *kept = g.forward.module(*inputs)
        grads = g.backward.module(*kept, slope(out))
        return grads[weight], grads[ranks.index(1)]

    return call


def close_on_average(draws, exact):
    draws = draws.double()
    error, spread = draws.mean(0) - exact.double(), draws.var(0).sum()
    return error.norm() < 3 * (spread / len(draws)).sqrt() and spread > 0


def step(layer, module, x):
    """The gradients of the weight and of what comes before it, and the output's."""
    layer.zero_grad()
    out = module(x)
    out.backward(slope(out))
    return layer.weight.grad.clone(), layer.first.grad.clone(), slope(out)


@pytest.mark.parametrize("spelling, kind", dict.fromkeys(CASES))
def test_the_mean_of_many_draws_is_exact_and_other_gradients_always(spelling, kind):
    layer, x = Layer(SPELLINGS[spelling]), torch.randn(1, 32, 16)
    exact, first, _ = step(layer, layer, x)
    call = runner(partitioned(layer, x, policy=asked(kind=kind, force=True)), layer, x)
    draws = [call() for _ in range(DRAWS)]
    assert close_on_average(torch.stack([weight for weight, _ in draws]), exact)
    for _, found in draws[:8]:
        torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-4)


def test_the_backend_is_right_on_average():
    layer, x = Layer(SPELLINGS["linear"]), torch.randn(1, 32, 16)
    options = {"inner": "aot_eager", **asked(force=True)}
    compiled = torch.compile(layer, backend="fxmem", options=options)
    draws = torch.stack([step(layer, compiled, x)[0] for _ in range(256)])
    assert fxmem.last_report().guarantee == "unbiased"
    assert close_on_average(draws, step(layer, layer, x)[0])


# From the output's gradient to the rows of the product.
ROWS = {
    "linear": lambda y: y.flatten(0, 1),
    "mm of a transposed input": lambda y: y.T,
    "einsum": lambda y: y.flatten(0, 1),
    "conv1x1": lambda y: y.movedim(1, -1).flatten(0, 2),
}


@pytest.mark.parametrize("kind", ["hadamard", "crs_norm"])
@pytest.mark.parametrize("spelling", ROWS)
def test_batches_of_any_size(spelling, kind):
    layer = Layer(SPELLINGS[spelling])
    options = {"inner": "aot_eager", **asked(0.25, kind=kind, force=True)}
    compiled = torch.compile(layer, backend="fxmem", options=options, dynamic=True)
    for batch in (3, 5):
        x = torch.randn(batch, 32, 16)
        exact, first, upstream = step(layer, layer, x)
        found = [step(layer, compiled, x) for _ in range(128)]
        torch.testing.assert_close(found[0][1], first, rtol=1e-4, atol=1e-4)
        draws = torch.stack([weight for weight, *_ in found])
        assert close_on_average(draws, exact)
        # How much they vary tells how many rows are kept: a fourth of any batch.
        rows = layer.given(x).detach().flatten(0, 1), ROWS[spelling](upstream)
        told = variance(*rows, Projection(0.25, matmul=kind)).sketch
        assert 0.7 < draws.var(0).sum() / told < 1.4
