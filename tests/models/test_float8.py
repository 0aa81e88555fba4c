"""Training in float8: casts to dtypes that torch promotes to no other, around every product."""

import pytest
import torch
from torch.nn import functional as F

from .training import BOUNDS, PRESETS, compiler, relative_error, run

# Dynamo makes an object of each torch.autograd.Function that it meets.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def quantized(x, dtype):
    """Return a tensor in float8, and the scale that makes it what it was."""
    scale = x.abs().amax() / 400
    return (x / scale).to(dtype), scale


class Product(torch.autograd.Function):
    """x @ w of float8 factors; the gradient is float8 too, with more exponent."""

    @staticmethod
    def forward(ctx, x, w):
        (a, s), (b, t) = (quantized(value, torch.float8_e4m3fn) for value in (x, w))
        ctx.save_for_backward(a, b, s, t)
        return a.to(x.dtype) @ b.to(w.dtype) * (s * t)

    @staticmethod
    def backward(ctx, grad):
        a, b, s, t = ctx.saved_tensors
        codes, u = quantized(grad, torch.float8_e5m2)
        g = codes.to(grad.dtype)
        return g @ b.to(grad.dtype).T * (t * u), a.to(grad.dtype).T @ g * (s * u)


def layers(compile):
    weights = [(torch.randn(64, 64) / 8).requires_grad_() for _ in range(3)]

    def network(x):
        for w in weights:
            x = x + F.gelu(Product.apply(x, w))
        return x.square().mean()

    compile(network)(torch.randn(64, 64)).backward()
    return {str(i): w.grad for i, w in enumerate(weights)}


def plainly(f):
    """Compile with the same decompositions: of a GELU's last bit another float8 may come."""
    return torch.compile(f, backend="aot_eager_decomp_partition")


@pytest.mark.parametrize("preset", PRESETS)
def test_float8_layers_train(preset):
    error = relative_error(run(layers, compiler(preset)), run(layers, plainly))
    # A float8 nearest to another than without the encoding is a step of 1/8 away.
    assert error <= {**BOUNDS, "balanced": 4e-2}[preset]
