"""Bit streams: bool to 1 bit an element, small integers to k bits, lowest bit first."""

import torch

from . import checks, reference
from .layout import Ints
from .native import define


def _pack_fake(x, bits):
    checks.pack(x, bits)
    return x.new_empty([(x.numel() * bits + 7) // 8], dtype=torch.uint8)


def _unpack_fake(packed, size, stride, bits, dtype):
    return packed.new_empty_strided(size, stride, dtype=dtype)


_pack = define("pack", reference=reference.pack, fake=_pack_fake)
_unpack = define("unpack", reference=reference.unpack, fake=_unpack_fake)


def packed_bytes(numel: int, bits: int = 1) -> int:
    """The bytes of a stream of `numel` elements."""
    return -(-numel * bits // 8)


def pack(x: torch.Tensor, bits: int = 1) -> torch.Tensor:
    """Pack a bool or uint8 tensor, taken in memory order, into uint8 [ceil(bits * n / 8)].

    Element i occupies bits i * bits and up of the stream; only its lowest `bits` (1 to 8) are kept.
    """
    return _pack(x, bits)


def unpack(
    packed: torch.Tensor, size: Ints, stride: Ints, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Unpack what `pack` made into a fresh uint8 tensor (or bool, for 1 bit) of dense strides."""
    return _unpack(packed, size, stride, bits, dtype)
