"""Dropout that keeps one bit an element: torch's own numbers, from the same generator."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from .eager import is_differentiated, overridable
from .masks import pack, unpack

# What selu tends to, with the sign turned (Klambauer et al., arXiv 1706.02515).
ALPHA = 1.7580993408473766


class Mask(NamedTuple):
    """The shape of the bits that are kept, and what elements that stay are multiplied by.

    A number where torch's fused operator multiplies, else a 0-dim tensor, rounded as torch's is.
    """

    size: torch.Size
    stride: tuple[int, ...]
    slope: float | torch.Tensor


@overridable
def dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.dropout, keeping one bit an element.

    The same elements stay as torch's function keeps under the same seed, and output and gradient
    are equal to its own, bit for bit. It keeps 8 bits on a GPU, and as many as the input's dtype
    has on a CPU.

    Args:
        input: float32, bfloat16, float16 or float64, of any shape and strides.
        p: the probability of an element to be zeroed.
        inplace: overwrite the input with the output, which is returned.

    Raises:
        ValueError: for a p outside [0, 1].
    """
    if not (training and 0 < p < 1 and input.numel() and is_differentiated(input)):
        return F.dropout(input, p, training, inplace)
    return _Dropped.apply(input, p, None, inplace)


@overridable
def alpha_dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.alpha_dropout, keeping one bit an element.

    The same elements stay as torch's function keeps under the same seed, and output and gradient
    are equal to its own, bit for bit.

    Args:
        input: float32, bfloat16, float16 or float64, of any shape and strides.
        p: the probability of an element to be masked.
        inplace: overwrite the input with the output, which is returned.

    Raises:
        ValueError: for a p outside [0, 1].
    """
    if not (training and 0 < p < 1 and input.numel() and is_differentiated(input)):
        return F.alpha_dropout(input, p, training, inplace)
    return _Dropped.apply(input, p, 1 / math.sqrt((ALPHA**2 * p + 1) * (1 - p)), inplace)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, input: torch.Tensor, p: float, scale: float | None, inplace: bool
    ) -> torch.Tensor:
        fused = input.is_cuda and scale is None and not inplace
        draw = _fused if fused else _composed
        output, kept, slope = draw(input, p, scale, inplace)
        ctx.save_for_backward(pack(kept))
        ctx.mask = Mask(kept.size(), kept.stride(), slope)
        if inplace:
            ctx.mark_dirty(input)
        return output

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _Masked.apply(grad, *ctx.saved_tensors, ctx.mask), None, None, None


class _Masked(torch.autograd.Function):
    """The gradient; it is linear, so that its own gradient is the same function."""

    @staticmethod
    def forward(ctx, grad: torch.Tensor, bits: torch.Tensor, mask: Mask) -> torch.Tensor:
        ctx.save_for_backward(bits)
        ctx.mask = mask
        kept = unpack(bits, mask.size, mask.stride, 1, torch.bool)
        if isinstance(mask.slope, float):
            return torch.ops.aten.native_dropout_backward(grad, kept, mask.slope)
        return grad * kept.to(grad.dtype).mul_(mask.slope)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Masked.apply(grad, *ctx.saved_tensors, ctx.mask), None, None


def _fused(input: torch.Tensor, p: float, scale: None, inplace: bool) -> tuple:
    output, kept = torch.native_dropout(input, p, True)
    return output, kept, 1 / (1 - p)


def _composed(input: torch.Tensor, p: float, scale: float | None, inplace: bool) -> tuple:
    """Draw and multiply in torch's own order, so that every number is rounded as there."""
    noise = torch.empty_like(input).bernoulli_(1 - p)
    kept, one = noise.bool(), input.new_ones(())
    slope = one.div_(1 - p) if scale is None else one.mul_(scale)
    if scale is None:
        noise.mul_(slope)
        return input.mul_(noise) if inplace else input * noise, kept, slope
    shift = (noise - 1).mul_(ALPHA * scale).add_(ALPHA * scale * p)
    noise.mul_(slope)
    output = input.mul_(noise).add_(shift) if inplace else (input * noise).add_(shift)
    return output, kept, slope
