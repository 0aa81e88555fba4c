"""Integers in exactly the bits that they need: what every quantizer stores.

Codes of eight bits stay a tensor of their shape, ready for integer arithmetic. Other widths are
bit streams one behind the other: the lowest eight bits of all elements, then the bits above.
"""

import torch

from .. import checks
from ..layout import Ints, count
from ..masks import pack, packed_bytes, unpack

WIDEST = 24  # what a float32 counts without gaps


def _planes(bits: int) -> list[tuple[int, int]]:
    """The lowest bit and the width of each stream."""
    return [(low, min(8, bits - low)) for low in range(0, bits, 8)]


def _check(op: str, bits: int) -> None:
    checks.require(1 <= bits <= WIDEST, op, "bits", f"1 to {WIDEST}", bits)


def integer_bytes(numel: int, bits: int) -> int:
    """The bytes that `store` needs for `numel` integers."""
    return sum(packed_bytes(numel, width) for _, width in _planes(bits))


def _bytes(codes: torch.Tensor) -> torch.Tensor:
    """uint8 of codes; of floating ones by way of int8, which takes torch a third of the time."""
    if not codes.is_floating_point():
        return codes.to(torch.uint8)
    return (codes - 128).to(torch.int8).view(torch.uint8) ^ 128


def store(codes: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
    """Store integers, of any real dtype, in `bits` (1 to 24) an element.

    Returns int8 (uint8 if not `signed`) of the same shape for 8 bits, else uint8
    [`integer_bytes`] in memory order. Only the lowest `bits` are kept, negative numbers in two's
    complement. Raises RuntimeError for other bits.
    """
    _check("store", bits)
    if bits == 8:
        return codes.to(torch.int8) if signed else _bytes(codes)
    whole = codes.to(torch.int32)
    streams = [pack((whole >> low & 0xFF).to(torch.uint8), w) for low, w in _planes(bits)]
    return torch.cat(streams)


def load(stored: torch.Tensor, bits: int, signed: bool, size: Ints, stride: Ints) -> torch.Tensor:
    """Return what `store` stored: int8 or uint8 as it lies for 8 bits, else int32 of this layout.

    `memory_stride(codes)` gives the strides. Raises RuntimeError where size or strides do not fit.
    """
    _check("load", bits)
    if bits == 8:
        return stored
    total, place = 0, 0
    for low, width in _planes(bits):
        end = place + packed_bytes(count(size), width)
        plane = unpack(stored[place:end], size, stride, width, torch.uint8)
        total, place = total + (plane.to(torch.int32) << low), end
    if not signed:
        return total
    half = 1 << (bits - 1)
    return (total ^ half) - half
