"""A quantizer's stored codes as what an int8 product takes: terms of int8 and a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxmem.ops.arithmetic import divisor
from fxmem.ops.integer import storage
from fxmem.ops.layout import contiguous_stride
from fxmem.quantizers import Quantizer
from fxmem.quantizers.packed import GRIDS
from fxmem.quantizers.rounding import widened
from fxmem.quantizers.wageubn import AllDirect, Flag

from .absmax import Absmax
from .product import Term

Codes = torch.Tensor
Terms = tuple[Term, ...]


@dataclass(frozen=True)
class Operand:
    """A quantized tensor: its codes as stored, the scale that its grid wants, and its size.

    `stored` is what `fxmem.ops.integer.storage.store` makes of the codes: int8 of the shape for
    eight bits. It is both what the product reads and what is kept.
    """

    stored: torch.Tensor
    scale: torch.Tensor
    quantizer: Quantizer
    size: tuple[int, ...]

    @classmethod
    def of(cls, x: torch.Tensor, quantizer: Quantizer) -> Operand:
        """Quantize a tensor."""
        if isinstance(quantizer, Absmax):
            return cls(*quantizer.integers(widened(x.detach())), quantizer, tuple(x.shape))
        codes, scale = quantizer.encode(widened(x.detach()).contiguous())
        stored = storage.store(codes, quantizer.bits, quantizer.signed)
        given = codes.new_ones(()) if scale is None else scale
        if scale is None or isinstance(quantizer, AllDirect):
            # Such a scale follows no data: a NaN would be stored as a number and train on, unseen.
            given = given + 0 * codes.sum()
        return cls(stored, given, quantizer, tuple(x.shape))

    def integers(self) -> torch.Tensor:
        """The codes in the tensor's shape."""
        q, stride = self.quantizer, contiguous_stride(self.size)
        return storage.load(self.stored, q.bits, q.signed, self.size, stride)

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """The tensor on the quantizer's grid."""
        codes = self.integers().to(self.scale.dtype)
        return GRIDS[self.quantizer.grid](codes, self.scale, self.quantizer.bits).to(dtype)

    def terms(self) -> Terms:
        """int8 of the tensor's shape with scales that broadcast over it; they add up to it."""
        return TERMS[self.quantizer.grid](self.integers(), self.scale, self.quantizer.bits)


def quantized(x: torch.Tensor, quantizer: Quantizer, factor: torch.Tensor | None = None) -> Terms:
    """The terms of a tensor that is used once, times a factor that broadcasts over it."""
    if isinstance(quantizer, Absmax):
        return (Term(*quantizer.integers(x, factor)),)
    given = x if factor is None else x * factor
    if isinstance(quantizer, Flag):
        return _flag_terms(given, quantizer)
    codes, scale = quantizer.encode(given)
    kind = torch.int8 if quantizer.signed else torch.uint8
    given = codes.new_ones(()) if scale is None else scale
    return TERMS[quantizer.grid](codes.to(kind), given, quantizer.bits)


def _flag_terms(x: torch.Tensor, quantizer: Flag) -> Terms:
    """Multiples of the scale, and multiples of 2/S of it where the flag is not set."""
    coarse, fine, is_coarse, scale = quantizer.parts(x)
    flag = is_coarse.to(x.dtype)  # products with it take a quarter of `where`'s time
    fine = fine.addcmul_(fine, flag, value=-1).to(torch.int8)
    step = scale / 2 ** (quantizer.data_bits - 1)
    return Term(coarse.mul_(flag).to(torch.int8), scale), Term(fine, step)


def _fixed(codes: Codes, scale: torch.Tensor, bits: int) -> Terms:
    return (Term(codes.to(torch.int8), scale),)


def _unit(codes: Codes, scale: torch.Tensor, bits: int) -> Terms:
    """c / L, of which eight bits are one too many for int8."""
    step = scale / divisor(scale, 2**bits - 1)
    if bits < 8:
        return (Term(codes.to(torch.int8), step),)
    return (Term((codes ^ 128).view(torch.int8), step, 128.0),)


def _symmetric(codes: Codes, scale: torch.Tensor, bits: int) -> Terms:
    """(2 c - L) / L, where that is an int8; else 2 (c - L / 2) / L."""
    if bits < 8:
        return _centred(codes, scale, bits)
    return (Term((codes ^ 128).view(torch.int8), scale * (2 / (2**bits - 1)), 0.5),)


def _centred(codes: Codes, scale: torch.Tensor, bits: int) -> Terms:
    """(2 c - L) / L in one int8, or in two: an error's padding is a term of 0, which 1/2 is not."""
    levels = 2**bits - 1
    step = scale / divisor(scale, levels)
    if bits < 8:
        return (Term((2 * codes.to(torch.int16) - levels).to(torch.int8), step),)
    low = (codes ^ 128).view(torch.int8)
    return Term(low, 2 * step), Term(torch.ones_like(low), step)


def _sign(codes: Codes, scale: torch.Tensor, bits: int) -> Terms:
    return (Term(2 * codes.to(torch.int8) - 1, scale),)


TERMS: dict[str, Callable[[Codes, torch.Tensor, int], Terms]] = {
    "fixed": _fixed,
    "unit": _unit,
    "symmetric": _symmetric,
    "centred": _centred,
    "sign": _sign,
}
