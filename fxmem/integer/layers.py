"""Linear layers and convolutions of integers: what the forward's product read is what is kept.

`y = linear(x, w)` with x and w quantized; kept for the backward are the codes of x, in a method's
bits, with a mask of one bit an element where its gradient has one. Nothing of x in floating point
is kept.
"""

from __future__ import annotations

import torch

from fxmem import ops
from fxmem.quantizers import Quantizer

from . import products
from .masks import masked
from .methods import method_of
from .operand import Operand
from .operators import Kind, define_layers
from .window import Dense, lead_of, window_of


def _mask(x: torch.Tensor, quantizer: Quantizer) -> torch.Tensor:
    if quantizer.straight:
        return x.new_empty(0, dtype=torch.uint8)
    return ops.pack(quantizer.passes(x))


def codes(x, window, name):
    """What is kept of an input: its codes as stored, their scale, and its gradient's mask."""
    quantizer, x = method_of(name, not isinstance(window, Dense)).activation, x.contiguous()
    left = Operand.of(x, quantizer)
    return left.stored, left.scale, _mask(x, quantizer)


def layer(x, weight, bias, geometry, name):
    """The outputs channels-last, and what is kept."""
    method, window = method_of(name, bool(geometry)), window_of(weight, geometry)
    kept = codes(x, window, name)
    left = Operand(*kept[:2], method.activation, tuple(x.shape))
    right = Operand.of(weight, method.weight)
    wide = torch.promote_types(x.dtype, torch.float32)
    y = products.forward(left, right, window, lead_of(x, window), wide)
    y = (y if bias is None else y.add_(bias)).to(x.dtype)
    return y, *kept


def gradients(grad, kept, weight, size, geometry, name, wants):
    """The gradients of x and weight channels-last, empty where nobody wants them."""
    x_codes, x_scale, mask = kept
    method, dtype = method_of(name, bool(geometry)), grad.dtype
    grad = grad.to(torch.promote_types(dtype, torch.float32)).contiguous()
    window = window_of(weight, geometry)
    left = Operand(x_codes, x_scale, method.activation, tuple(size))
    right = Operand.of(weight, method.weight) if wants[0] else None
    errors = method.input_error, method.weight_error
    both = products.shared_error(grad, left, right, errors) if all(wants) else None
    errors = errors if both is None else (both, both)
    x_grad, w_grad = grad.new_empty(0), grad.new_empty(0)
    if wants[0]:
        x_grad = products.input_gradient(grad, right, errors[0], window, size)
        x_grad = x_grad if method.activation.straight else masked(x_grad, mask)
        x_grad = x_grad.to(dtype)
    if wants[1]:
        w_grad = products.weight_gradient(grad, left, errors[1], window, weight.shape)
        w_grad = method.weight.gradient(w_grad, weight).to(weight.dtype)
    return x_grad, w_grad


def _autocast(device, x, weight, bias, *given):
    """Quantize what eager would multiply; a fixed-point grid is finer than that."""
    if given[-1].startswith(("wageubn", "fixed")):
        raise RuntimeError(
            "fxmem: this layer computes on fixed-point grids of up to 24 bits, which autocast's "
            "half precision would round: leave autocast for these layers"
        )
    return x.to(torch.get_autocast_dtype(device)), weight, bias, *given


integer_linear, integer_conv2d = define_layers(Kind("integer", codes, layer, gradients, _autocast))
