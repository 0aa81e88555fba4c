"""What an integer layer must compute: the same product of the values, in float64."""

import torch
import torch.nn.functional as F

from fxmem.integer.methods import BINARY, method_of
from fxmem.quantizers import Binary, input_scale

POWERS = ("wageubn8",)
INTEGER = ("wageubn8", "int8", "int8:stochastic", "dorefa:1,2,6", "dorefa:8,8,8", "dorefa:3,2,32")
METHODS = (*INTEGER, *BINARY)
GROUPED = ((1, 1, 1, 2), (2, 0, 1, 4), ((1, 2), (1, 0), 1, 1), (1, 1, 2, 8))
CONVOLUTIONS = ((1, 1, 1), (2, 1, 1), (1, 0, 2), ((2, 1), (0, 3), (1, 2)))


def drawn(*shape, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype).requires_grad_()


def linear_operands(dtype=torch.float32, inner=24):
    return drawn(4, 3, inner, dtype=dtype), drawn(7, inner, scale=0.3, dtype=dtype), drawn(7)


def conv_operands(dtype=torch.float32):
    return drawn(3, 5, 9, 8, dtype=dtype), drawn(6, 5, 3, 3, scale=0.3, dtype=dtype), drawn(6)


def grouped_operands(groups, inner=8, dtype=torch.float32):
    """Depthwise where the groups are as many as the channels, with two filters each."""
    shape = (2 * inner, inner // groups, 3, 3)
    weight = drawn(*shape, scale=0.3, dtype=dtype)
    return drawn(3, inner, 9, 8, dtype=dtype), weight, drawn(2 * inner)


def input_scales(x, weight, geometry):
    """XNOR-Net's K of each output channel."""
    *steps, groups = geometry if len(geometry) == 4 else (*geometry, 1)
    parts = [input_scale(it, tuple(weight.shape[2:]), *steps) for it in x.chunk(groups, 1)]
    return torch.cat(parts, 1).repeat_interleave(weight.size(0) // groups, 1)


def quantized(x, weight, method, convolution=False):
    """x and weight on their grids, in float64, differentiable as published."""
    if method not in BINARY:
        found = method_of(method, convolution)
        pair = found.activation(x), found.weight(weight)
    else:
        found = BINARY[method]
        pair = Binary(masked=True)(x) if found.signs else x, found.weight(weight)
    return [it.double() for it in pair]


def fake(x, weight, bias, method, *geometry):
    """The layer of fake-quantized values."""
    left, right = quantized(x, weight, method, bool(geometry))
    y = F.conv2d(left, right, None, *geometry) if geometry else F.linear(left, right)
    if method in BINARY and BINARY[method].scaled:
        wide = x.detach().double()
        y = y * (input_scales(wide, weight, geometry) if geometry else input_scale(wide))
    shape = (-1, 1, 1) if geometry else (-1,)
    return y if bias is None else y + bias.double().view(shape)


def gradients(y, inputs, grad):
    return torch.autograd.grad(y, inputs, grad.to(y))
