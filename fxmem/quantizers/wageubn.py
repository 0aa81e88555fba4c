"""WAGEUBN's quantizers: fixed point with power-of-two scales for all that training computes.

Yang et al., "Training high-performance and large-scale deep neural networks with full 8-bit
integers", Neural Networks 125 (2020), arXiv 1909.02384; where the paper leaves a choice, as its
first author's code. S(k) = 2^(k-1) throughout; R(x) is `rounding.magnitude`. Quantizers of
gradients and errors go into the backward alone by `quantize_gradient(x, Constant())`, or `Shift()`,
`Flag()`, `Direct(15)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch

from .quantizer import Quantizer, check_bits
from .rounding import magnitude, stochastic_round

WIDEST = 24
FLAGGED = 12  # the most data bits of a flagged error: 2 x 12 - 1 fit float32's mantissa


def _check_widths(quantizer: Quantizer) -> None:
    for field in fields(quantizer):
        if field.type == "int":
            check_bits(field.name, getattr(quantizer, field.name), 2, WIDEST)


@dataclass(frozen=True)
class Direct(Quantizer):
    """Q(x, k) = round(x S) / S: k - 1 fraction bits, ties to even, range unbounded.

    `pack` refuses what does not fit k bits; `AllDirect` saturates.
    """

    bits: int = 8
    grid: ClassVar[str] = "fixed"

    def __post_init__(self):
        _check_widths(self)

    def encode(self, x, generator=None):
        return (x * 2 ** (self.bits - 1)).round_(), x.new_full((), 2.0 ** (1 - self.bits))


@dataclass(frozen=True)
class AllDirect(Quantizer):
    """clamp(round(x S(fraction)), ±(S(bits) - 1)) / S(fraction): a width as well as a step.

    The straight-through gradient passes where it saturates too, as in the published code.
    """

    fraction: int = 8
    bits: int = 8
    grid: ClassVar[str] = "fixed"

    def __post_init__(self):
        _check_widths(self)

    def encode(self, x, generator=None):
        top = 2 ** (self.bits - 1) - 1
        codes = (x * 2 ** (self.fraction - 1)).round_().clamp_(-top, top)
        return codes, x.new_full((), 2.0 ** (1 - self.fraction))


def weight(bits: int = 8) -> AllDirect:
    """QW(x, k) = clamp(Q(x, k), ±(1 - 2^(1-k))), of weights."""
    return AllDirect(bits, bits)


@dataclass(frozen=True)
class Constant(Quantizer):
    """CQ(x) = clamp(Sr(S(range_bits) x / R), ±(S(range_bits) - 1)) / S(bits).

    Of weight gradients: x's scale is dropped, the range is a constant. Sr rounds stochastically, or
    to nearest without `stochastic`. With the authors' g_scale of 128, 32, 8 and 2, range_bits is 8,
    6, 4 and 2, and `Direct(15).value(lr * Constant().value(grad))` is their step.
    """

    range_bits: int = 8
    fraction: int = 15
    stochastic: bool = True
    grid: ClassVar[str] = "fixed"

    def __post_init__(self):
        _check_widths(self)

    @property
    def bits(self) -> int:
        """What is stored: the range alone, whatever the step."""
        return self.range_bits

    def encode(self, x, generator=None):
        levels = 2 ** (self.range_bits - 1)
        scaled = (x / magnitude(x)).mul_(levels)
        codes = stochastic_round(scaled, generator) if self.stochastic else scaled.round_()
        return codes.clamp_(1 - levels, levels - 1), x.new_full((), 2.0 ** (1 - self.fraction))


@dataclass(frozen=True)
class Shift(Quantizer):
    """SQ(x, k) = R clamp(Q(x/R, k), ±(1 - 2^(1-k))), of the error after a BN.

    Idempotent wherever rounding the largest element keeps its R; always for 3, 4, 6 and 8 bits.
    """

    bits: int = 8
    grid: ClassVar[str] = "fixed"

    def __post_init__(self):
        _check_widths(self)

    def encode(self, x, generator=None):
        levels, range_ = 2 ** (self.bits - 1), magnitude(x)
        codes = (x / range_).mul_(levels).round_().clamp_(1 - levels, levels - 1)
        return codes, range_ / levels


@dataclass(frozen=True)
class Flag(Quantizer):
    """Flag quantization, of the error before a convolution: k bits and a flag.

    With sc = R/S: |x| >= sc is rounded to a multiple of sc, at most S - 1 of them, and what is
    smaller to a multiple of sc/S. The flag says which; 8 data bits so reach as far as 15.
    """

    data_bits: int = 8
    grid: ClassVar[str] = "flagged"
    signed: ClassVar[bool] = False

    def __post_init__(self):
        check_bits("data_bits", self.data_bits, 2, FLAGGED)

    @property
    def bits(self) -> int:
        """What is stored: the data bits and the flag."""
        return self.data_bits + 1

    def parts(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Multiples of sc and of sc/S, which of them are flagged, and sc."""
        levels = 2 ** (self.data_bits - 1)
        scale = magnitude(x) / levels
        scaled = x / scale
        fine = (scaled * levels).round_()
        coarse = scaled.round_().clamp_(1 - levels, levels - 1)
        # A small value may round to sc itself, which only the coarse grid stores.
        return coarse, fine, fine.abs() >= levels, scale

    def encode(self, x, generator=None):
        levels = 2 ** (self.data_bits - 1)
        coarse, fine, is_coarse, scale = self.parts(x)
        number = torch.where(is_coarse, coarse, fine)
        return number.remainder(2 * levels) + is_coarse * (2 * levels), scale


@dataclass(frozen=True)
class Widths:
    """The widths of one network; the defaults are the paper's and its code's.

    Each is 2 to 24 bits, the errors' 2 to 12.
    """

    weight: int = 8
    activation: int = 8
    gradient_range: int = 8
    gradient: int = 15
    error: int = 8
    batch_norm: int = 16
    batch_norm_weight: int = 8
    batch_norm_gradient: int = 15
    momentum: int = 13
    learning_rate: int = 10
    update: int = 24

    def __post_init__(self):
        check_bits("error", self.error, 2, FLAGGED)
        _check_widths(self)

    def quantizers(self) -> dict[str, Quantizer]:
        """What quantizes what, by name; "flag_error" is for the error before a convolution."""
        direct = ("batch_norm", "batch_norm_weight", "batch_norm_gradient", "momentum")
        direct = ("activation", *direct, "learning_rate", "update")
        return {
            "weight": weight(self.weight),
            "gradient": Constant(self.gradient_range, self.gradient),
            "error": Shift(self.error),
            "flag_error": Flag(self.error),
            **{name: Direct(getattr(self, name)) for name in direct},
        }


def deviation(variance: torch.Tensor, bits: int = 16) -> torch.Tensor:
    """Q(sqrt(variance), k) + 2^(1-k): batch norm's deviation, never 0."""
    return Direct(bits)(variance.sqrt()) + 2.0 ** (1 - bits)
