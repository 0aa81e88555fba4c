"""A quantized tensor as it is stored: integer codes, and what they count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from fxmem import ops
from fxmem.ops.arithmetic import divisor
from fxmem.ops.integer import storage

Scale = torch.Tensor | None


def _flagged(codes: torch.Tensor, scale: Scale, bits: int) -> torch.Tensor:
    """Codes of bits - 1 signed bits and a flag above them: multiples of the scale, or of 2/S."""
    half = 1 << (bits - 2)
    whole = codes.to(torch.int32)
    number = (((whole & (2 * half - 1)) ^ half) - half).to(codes.dtype)
    return scale * torch.where(whole >= 2 * half, number, number / half)


def _levels(bits: int) -> int:
    return 2**bits - 1


def _unit(codes: torch.Tensor, levels: float) -> torch.Tensor:
    return codes.div_(divisor(codes, levels))


# What a code is worth. A name and its formula outlive the quantizer that made the codes, which are
# used up: fresh memory costs more than the arithmetic.
GRIDS: dict[str, Callable[[torch.Tensor, Scale, int], torch.Tensor]] = {
    "fixed": lambda codes, scale, bits: codes.mul_(scale),
    "flagged": _flagged,
    "unit": lambda codes, scale, bits: _unit(codes, _levels(bits)),
    "symmetric": lambda codes, scale, bits: _unit(codes, _levels(bits)).mul_(2).sub_(1),
    "centred": lambda codes, scale, bits: _unit(codes, _levels(bits) / 2).sub_(1).mul_(scale),
    "sign": lambda codes, scale, bits: codes.mul_(2).sub_(1).mul_(scale),
}


@dataclass(frozen=True)
class Packed:
    """A tensor on a quantizer's grid, stored in `bits` an element and its scales.

    `codes` is as `fxmem.ops.integer.storage.store` made it; `scale` broadcasts over `size`.
    """

    codes: torch.Tensor
    scale: Scale
    grid: str
    bits: int
    signed: bool
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(
        cls, codes: torch.Tensor, scale: Scale, grid: str, bits: int, signed: bool, dtype
    ) -> Packed:
        """Store whole numbers. Raises OverflowError if one does not fit, or is NaN."""
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, _levels(bits))
        if not ((codes >= low) & (codes <= high)).all():
            raise OverflowError(
                f"{bits} bits hold codes from {low} to {high}; got {codes.min()} to {codes.max()}"
            )
        layout = tuple(codes.shape), tuple(ops.memory_stride(codes))
        return cls(storage.store(codes, bits, signed), scale, grid, bits, signed, *layout, dtype)

    def integers(self) -> torch.Tensor:
        """The codes as integers, of the tensor's shape."""
        return storage.load(self.codes, self.bits, self.signed, self.size, self.stride)

    def values(self) -> torch.Tensor:
        """The tensor in its own dtype: exactly what the quantizer's value is."""
        wide = torch.promote_types(self.dtype, torch.float32)
        return GRIDS[self.grid](self.integers().to(wide), self.scale, self.bits).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """The bytes of codes and scales."""
        return self.codes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def to_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings alone: `torch.load(weights_only=True)` reads them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Packed:
        """The inverse of `to_dict`. Raises ValueError for anything else, and an unknown grid."""
        wanted = {field.name for field in fields(cls)}
        if not isinstance(state, Mapping) or state.keys() != wanted:
            raise ValueError(f"a packed tensor has {', '.join(sorted(wanted))}; got {state!r:.99}")
        if state["grid"] not in GRIDS:
            raise ValueError(f"grid must be one of {', '.join(GRIDS)}; got {state['grid']!r}")
        return cls(**state)
