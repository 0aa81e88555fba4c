"""Linear layers that keep their input in a few bits an element: what sketches are compared with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fxmem.ops import codec
from fxmem.ops.layout import memory_stride


class CodedLinear(nn.Linear):
    """torch.nn.Linear that keeps `bits` an element of its input, with a scale for 64 elements."""

    bits: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute the layer."""
        return _Coded.apply(input, self.weight, self.bias, self.bits)


def coded(bits: int, module: nn.Linear) -> nn.Module:
    """Return such a layer with the parameters of another."""
    sizes = module.in_features, module.out_features, module.bias is not None
    twin = CodedLinear(*sizes, device="meta")
    twin.weight, twin.bias, twin.bits = module.weight, module.bias, bits
    return twin


class _Coded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias, bits):
        codes, scales = codec.encode(input, bits)
        ctx.save_for_backward(weight, codes, scales)
        ctx.layout = tuple(input.shape), memory_stride(input), bits, 64, input.dtype
        return functional.linear(input, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        weight, codes, scales = ctx.saved_tensors
        input = codec.decode(codes, scales, *ctx.layout)
        rows = grad.flatten(0, -2)
        bias_grad = rows.sum(0) if ctx.needs_input_grad[2] else None
        return grad @ weight, rows.mT @ input.flatten(0, -2), bias_grad, None
