"""DoReFa-Net's quantizers: k-bit weights, activations and gradients.

Zhou et al. 2016, arXiv 1606.06160. quantize_k(r) = round((2^k - 1) r) / (2^k - 1) for r in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fxmem.ops.arithmetic import divisor

from .binary import mean_magnitude
from .quantizer import Quantizer, check_bits
from .rounding import largest, uniform, widened

WIDEST = 16


@dataclass(frozen=True)
class WeightBit(Quantizer):
    """sign(w) E|w| with the mean over all of w, for k = 1; the gradient passes as it is.

    sign(0) is +1, so that a bit is enough.
    """

    bits: ClassVar[int] = 1
    grid: ClassVar[str] = "sign"
    signed: ClassVar[bool] = False

    def encode(self, x, generator=None):
        return (x >= 0).to(x.dtype), mean_magnitude(x)


@dataclass(frozen=True)
class WeightLevels(Quantizer):
    """2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1, for k > 1.

    The gradient is that of the formula with quantize_k taken as the identity: it flows through tanh
    and through the maximum, which is over all of w. Elements that share the maximum share its
    gradient. Where all of w is 0 the maximum counts as 1.
    """

    bits: int
    grid: ClassVar[str] = "symmetric"
    signed: ClassVar[bool] = False
    straight: ClassVar[bool] = False
    needs_input: ClassVar[bool] = True

    def __post_init__(self):
        check_bits("bits", self.bits, 2, WIDEST)

    def encode(self, x, generator=None):
        t = x.tanh()
        unit = t.div_(2 * _never_zero(largest(t))).add_(0.5)
        return unit.mul_(2**self.bits - 1).round_(), None

    def gradient(self, grad, x):
        t, g = widened(x).tanh(), widened(grad)
        top = _never_zero(largest(t))
        unit = t / top  # g itself may be near the largest number, or t near the smallest
        at_top = torch.where(t.abs() == top, unit, 0)
        through_top = (g * unit).sum() / at_top.count_nonzero().clamp(min=1)
        slope = g.addcmul(at_top, through_top, value=-1).div_(top)
        return slope.mul_(t.square().neg_().add_(1)).to(grad.dtype)


def weight(bits: int) -> Quantizer:
    """The quantizer of weights for k = 1 to 16 bits. Raises ValueError for others."""
    check_bits("bits", bits, 1, WIDEST)
    return WeightBit() if bits == 1 else WeightLevels(bits)


@dataclass(frozen=True)
class Activation(Quantizer):
    """quantize_k(clip(a, 0, 1)); the gradient passes where 0 <= a <= 1, as one bit an element."""

    bits: int
    grid: ClassVar[str] = "unit"
    signed: ClassVar[bool] = False
    straight: ClassVar[bool] = False

    def __post_init__(self):
        check_bits("bits", self.bits, 1, WIDEST)

    def encode(self, x, generator=None):
        return x.clamp(0, 1).mul_(2**self.bits - 1).round_(), None

    def passes(self, x):
        return x.clamp(0, 1) == x


@dataclass(frozen=True)
class Gradient(Quantizer):
    """2 m (quantize_k(clip(g / 2m + 1/2 + N, 0, 1)) - 1/2), m = max|g| of each sample.

    Samples lie along dimension 0. N = u / (2^k - 1) with u uniform in (-1/2, 1/2) makes the
    expectation g; without `stochastic` it is 0. A sample of zeros stays zero.

    It is for the gradient of a layer's output, which both products of the backward read (algorithm
    1). What they return is not quantized: the weight's gradient is a sum of k-bit products with a
    scale for each sample, and real, as are the weights that it updates.
    """

    bits: int
    stochastic: bool = True
    grid: ClassVar[str] = "centred"
    signed: ClassVar[bool] = False

    def __post_init__(self):
        check_bits("bits", self.bits, 1, WIDEST)

    def encode(self, x, generator=None):
        top = largest(x, keep=0)
        levels = 2**self.bits - 1
        ratio = x / _never_zero(top)  # and half of that: twice the largest may be infinite
        unit = torch.add(ratio.new_full((), 0.5), ratio, alpha=0.5, out=ratio)
        if self.stochastic:
            unit.add_(uniform(x, generator).sub_(0.5).div_(divisor(unit, levels)))
        return unit.clamp_(0, 1).mul_(levels).round_(), top


def _never_zero(top: torch.Tensor) -> torch.Tensor:
    return torch.where(top == 0, 1, top)
