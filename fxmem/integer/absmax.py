"""Dynamic symmetric quantization: each scale is the largest magnitude over 2^(bits-1) - 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fxmem.ops.arithmetic import divisor
from fxmem.ops.integer.absmax import absmax
from fxmem.quantizers import Quantizer, stochastic_round
from fxmem.quantizers.quantizer import check_bits

SEEDS = (-(2**63), 2**63 - 1)

# Which dimensions of a tensor have a scale for each of their indices.
SLICES = {
    "tensor": lambda dim: (),
    "sample": lambda dim: (0,),
    "row": lambda dim: tuple(range(dim - 1)),
    "channel": lambda dim: (dim - 1,),
}


@dataclass(frozen=True)
class Absmax(Quantizer):
    """round(x / s) s with s = max|x| / (2^(bits-1) - 1), a scale a slice; ties to even.

    `slices` is "tensor", "sample" (an index of dimension 0), "row" (all but the last dimension) or
    "channel" (an index of the last). With `stochastic` the expectation is x. Zeros stay zeros.
    Raises ValueError for bits other than 2 to 8 and for other slices.
    """

    bits: int = 8
    slices: str = "tensor"
    stochastic: bool = False
    grid: ClassVar[str] = "fixed"

    def __post_init__(self):
        check_bits("bits", self.bits, 2, 8)
        if self.slices not in SLICES:
            raise ValueError(f"slices must be one of {', '.join(SLICES)}; got {self.slices!r}")

    def integers(
        self, x: torch.Tensor, factor: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """int8 codes of x times a factor, and their scales, in x's number of dimensions.

        The factor has one number a channel, or where scales have, one for all before it.
        """
        by_column = self.slices == "channel"
        if x.dtype != torch.float32:
            shape = (*x.shape[:-1], 1) if by_column else (-1,)
            codes, scale = self.encode(x if factor is None else x * factor.reshape(shape))
            return codes.to(torch.int8), scale
        kept = SLICES[self.slices](x.dim())
        size = [x.size(d) if d in kept else 1 for d in range(x.dim())]
        rest = math.prod(n for d, n in enumerate(x.shape) if d not in kept)
        shape = (rest, math.prod(size)) if by_column else (math.prod(size), rest)
        factor = factor if x.numel() else None
        seed = torch.randint(*SEEDS, (1,), device=x.device) if self.stochastic else None
        levels = 2 ** (self.bits - 1) - 1
        codes, scale = absmax(x.reshape(shape), factor, by_column, levels, seed)
        return codes.view(x.shape), scale.view(size if kept else ())

    def encode(self, x, generator=None):
        kept = SLICES[self.slices](x.dim())
        dims = [d for d in range(x.dim()) if d not in kept]
        spare = x.abs()  # its memory serves again: a fresh page costs more than the arithmetic
        top = _largest(spare, dims)
        levels = divisor(top, 2 ** (self.bits - 1) - 1)
        scale = torch.where(top == 0, 1, top / levels)
        scaled = torch.div(x, scale, out=spare)
        return (stochastic_round(scaled, generator) if self.stochastic else scaled.round_()), scale


def _largest(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    """The largest along some dimensions of what is not negative, 0-dimensional along all."""
    if x.numel() == 0:
        top = x.new_zeros([1 if d in dims else size for d, size in enumerate(x.shape)])
    else:
        top = x.amax(dims, keepdim=True) if dims else x.clone()
    return top.reshape(()) if len(dims) == x.dim() else top
