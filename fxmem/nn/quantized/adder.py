"""AdderNet's layer: distances in place of products.

Chen et al. 2020, "AdderNet: Do We Really Need Multiplications in Deep Learning?", arXiv 1912.13200.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxmem.ops.eager import returned
from fxmem.ops.integer import storage
from fxmem.ops.second import NOT_KEPT, undifferentiable
from fxmem.quantizers.wageubn import AllDirect

from .layers import Quantized, check_precision

GRIDS = AllDirect(6, 8), AllDirect(8, 8)  # of inputs and of weights
SECOND = f"the gradient of an adder layer has no derivative: {NOT_KEPT}"


def adder2d(x, weight, bias=None, stride=1, padding=0, grids=GRIDS):
    """-sum |w - x| over each window, [batch, out, height, width].

    x is [batch, in, height, width] and weight [out, in, height, width], each put on its grid of at
    most 8 bits; the codes are what is kept. With g the output's gradient, the weight's is the sum
    of g (x - w), scaled to a norm of sqrt(numel) / 5, and x's the sum of g clamp(w - x, -1, 1):
    equations 5, 6 and 12 of the paper. Raises TypeError for steps that are not one whole number.
    """
    _check_numbers(stride=stride, padding=padding)
    y = _Adder.apply(x, weight, stride, padding, grids)
    return y if bias is None else y + bias.view(-1, 1, 1)


class Adder2d(Quantized, nn.Module):
    """AdderNet's convolution, of one width and one padding for both directions."""

    def __init__(
        self, input_channel, output_channel, kernel_size, stride=1, padding=0, bias=False,
        config=None, **widths,
    ):  # fmt: skip
        super().__init__()
        _check_numbers(kernel_size=kernel_size, stride=stride, padding=padding)
        self.stride, self.padding = stride, padding
        size = output_channel, input_channel, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.randn(size).div_(math.sqrt(math.prod(size[1:]))))
        self.bias = nn.Parameter(torch.zeros(output_channel)) if bias else None
        self._configure(config, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_precision(self, x)
        config = self.config
        bias = None if self.bias is None else config.grid("bias").quantize(self.bias)
        grids = config.grid("input"), config.grid("weight")
        y = adder2d(x, self.weight, bias, self.stride, self.padding, grids)
        return config.grid("output").quantize(y) if config.iostrict else y


def _check_numbers(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, int):
            raise TypeError(
                f"an adder layer's {name} is one whole number for both directions; got {value!r}"
            )


class _Adder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride, padding, grids):
        pairs = [g.encode(it.contiguous()) for g, it in zip(grids, (x, weight), strict=True)]
        ctx.geometry, ctx.grids, ctx.shapes = (stride, padding), grids, (x.shape, weight.shape)
        stored = [
            storage.store(codes, grid.bits, True)
            for (codes, _), grid in zip(pairs, grids, strict=True)
        ]
        ctx.save_for_backward(*stored)
        columns, rows, out = _operands(*stored, ctx)
        y = torch.stack([-(columns - row.view(-1, 1)).abs().sum(1) for row in rows], 1)
        return returned(y.view(x.size(0), weight.size(0), *out), x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return undifferentiable(_gradients, SECOND, grad, ctx)


def _gradients(grad, ctx):
    columns, rows, _ = _operands(*ctx.saved_tensors, ctx)
    flat, x_columns, w_rows = grad.flatten(2), torch.zeros_like(columns), []
    for o, row in enumerate(rows):
        apart, g = columns - row.view(-1, 1), flat[:, o : o + 1]
        w_rows.append((apart * g).sum((0, 2)))
        x_columns -= apart.clamp_(-1, 1).mul_(g)
    x_shape, w_shape = ctx.shapes
    stride, padding = ctx.geometry
    x_grad = F.fold(x_columns, x_shape[2:], w_shape[2:], 1, padding, stride)
    w_grad = torch.stack(w_rows).view(w_shape)
    length = w_grad.norm().clamp(min=1e-12)
    return x_grad, w_grad * (math.sqrt(w_grad.numel()) / 5 / length), None, None, None


def _operands(x_codes, w_codes, ctx):
    """The windows [batch, inputs, places], the filters [out, inputs], and the outputs' sizes."""
    values = [
        storage.load(codes, grid.bits, True, shape, torch.empty(shape, device="meta").stride())
        * 2.0 ** (1 - grid.fraction)
        for codes, grid, shape in zip((x_codes, w_codes), ctx.grids, ctx.shapes, strict=True)
    ]
    (stride, padding), kernel = ctx.geometry, ctx.shapes[1][2:]
    columns = F.unfold(values[0], kernel, 1, padding, stride)
    sizes = zip(ctx.shapes[0][2:], kernel, strict=True)
    return columns, values[1].flatten(1), [(n + 2 * padding - k) // stride + 1 for n, k in sizes]
