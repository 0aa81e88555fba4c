"""Rectified values on a grid, of which the backward needs one bit an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fxmem.quantizers import Quantizer

from .layers import Quantized


@dataclass(frozen=True)
class Rectified(Quantizer):
    """clamp(x, 0, top) on the grid of `AllDirect(fraction, bits)`; the gradient passes inside.

    It passes where the grid saturates, as published, and not from `top` on.
    """

    fraction: int
    bits: int
    top: float
    grid: ClassVar[str] = "fixed"
    straight: ClassVar[bool] = False

    def encode(self, x, generator=None):
        highest = 2 ** (self.bits - 1) - 1
        steps = x.clamp(0, self.top).mul_(2 ** (self.fraction - 1))
        return steps.round_().clamp_(max=highest), x.new_full((), 2.0 ** (1 - self.fraction))

    def passes(self, x):
        return (x > 0) & (x < self.top)


class ReLU(Quantized, nn.Module):
    """max(x, 0) on the grid of `acti_*_bit_width`."""

    top = float("inf")

    def __init__(self, inplace=False, config=None, **widths):
        super().__init__()
        self.inplace = inplace
        self._configure(config, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.config.grid("acti")
        return Rectified(grid.fraction, grid.bits, self.top).quantize(x)


class ReLU6(ReLU):
    """clamp(x, 0, 6) on the grid of `acti_*_bit_width`."""

    top = 6.0
