"""Weights and activations of one bit: BinaryConnect, BinaryNet, XNOR-Net.

Courbariaux et al. 2015 (arXiv 1511.00363) and 2016 (arXiv 1602.02830); Rastegari et al. 2016 (arXiv
1603.05279). The sign of 0 is +1 throughout: a bit holds two values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from .quantizer import Quantizer
from .rounding import uniform, widened


@dataclass(frozen=True)
class Binary(Quantizer):
    """+H where x >= 0, else -H. BinaryConnect's weights and BinaryNet's weights and activations.

    With `stochastic`, +H with the probability clip((x / H + 1) / 2, 0, 1), so that the expectation
    within ±H is x. The gradient passes as it is; with `masked`, where |x| <= H alone, which is that
    of clip(x, -H, H) and BinaryNet's for activations (one bit an element is kept).
    """

    stochastic: bool = False
    masked: bool = False
    scale: float = 1.0
    bits: ClassVar[int] = 1
    grid: ClassVar[str] = "sign"
    signed: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a positive number; got {self.scale!r}")

    @property
    def straight(self) -> bool:
        """Whether no mask is asked for."""
        return not self.masked

    def encode(self, x, generator=None):
        scale = x.new_full((), self.scale)
        if self.stochastic:
            bits = uniform(x, generator) < ((x / scale + 1) / 2).clamp(0, 1)
        else:
            bits = x >= 0
        # Else a weight that is no number would train on as -H, unseen.
        return bits.to(x.dtype).masked_fill_(x.isnan(), math.nan), scale

    def passes(self, x):
        return x.abs() <= self.scale


def glorot_scale(weight: torch.Tensor) -> float:
    """H = sqrt(1.5 / (fan_in + fan_out)), BinaryConnect's code's scale for weights of 2 or more
    dimensions: half of Glorot's uniform bound."""
    receptive = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / ((weight.shape[0] + weight.shape[1]) * receptive))


def mean_magnitude(x: torch.Tensor, keep: int | None = None) -> torch.Tensor:
    """E|x| over all of x, 0-dimensional, or of each slice along dimension `keep`, sizes of 1 kept.

    0 for a tensor without elements. Summed in float64, where equal float32 magnitudes have exactly
    themselves as their mean: a quantized weight that is exported and quantized again is the same.
    """
    dims = [d for d in range(x.dim()) if d != keep]
    if keep is None and not x.numel():
        return x.new_zeros(())
    if not dims:
        return x.abs()
    mean = x.abs().mean(dims, keepdim=keep is not None, dtype=torch.float64)
    return mean.to(x.dtype)


@dataclass(frozen=True)
class XnorWeight(Quantizer):
    """alpha sign(W) with alpha = |W|_1 / n for each filter of n weights; section 3.1.

    Filters lie along `filters`, 0 but for transposed convolutions. The gradient of W_i, from that
    of the value, g_i, is as published g_i (1/n + alpha 1{|W_i| <= 1}); with `exact` the chain rule
    through alpha, sign(W_i)/n sum_j g_j sign(W_j) + alpha 1{|W_i| <= 1} g_i.
    """

    filters: int = 0
    exact: bool = False
    bits: ClassVar[int] = 1
    grid: ClassVar[str] = "sign"
    signed: ClassVar[bool] = False
    straight: ClassVar[bool] = False
    needs_input: ClassVar[bool] = True

    def __post_init__(self):
        if self.filters not in (0, 1):
            raise ValueError(f"filters must be dimension 0 or 1; got {self.filters!r}")

    def encode(self, x, generator=None):
        return (x >= 0).to(x.dtype), mean_magnitude(x, self.filters)

    def gradient(self, grad, x):
        g, w = widened(grad), widened(x)
        dims = [d for d in range(w.dim()) if d != self.filters]
        count = max(math.prod([w.shape[d] for d in dims]), 1)
        slope = (w.abs() <= 1) * mean_magnitude(w, self.filters)
        if not self.exact:
            return slope.add_(1 / count).mul_(g).to(grad.dtype)
        sign = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)
        through = g * sign
        through_alpha = (through.sum(dims, keepdim=True) if dims else through) / count
        return (slope * g).addcmul_(sign, through_alpha).to(grad.dtype)


def input_scale(
    x: torch.Tensor, kernel: tuple[int, ...] = (), stride=1, padding=0, dilation=1
) -> torch.Tensor:
    """XNOR-Net's K: the mean |x| over channels, averaged over the kernel's window; section 3.2.

    For a convolution, x is [batch, channels, ...] with as many sizes behind as the kernel has, 1 to
    3, and K is [batch, 1, ...] of the convolution's output; zeros of the padding count. For a
    linear layer, without `kernel`, K is [..., 1] over the last dimension. Its gradient is the exact
    one: detach it where K is to be a constant.
    """
    if not kernel:
        return x.abs().mean(-1, keepdim=True)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    window = x.new_full((1, 1, *kernel), 1 / math.prod(kernel))
    return convolve(x.abs().mean(1, keepdim=True), window, None, stride, padding, dilation)
