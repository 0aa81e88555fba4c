"""The bits that reversible multiplications lost: while they are used, and while they are kept."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..masks import pack, unpack


class Buffer(NamedTuple):
    """The bits lost so far: numbers, the bounds before each multiplication, and what spilled."""

    numbers: torch.Tensor
    bounds: tuple[int, ...]
    bound: int
    spilled: tuple[torch.Tensor, ...]


class Settled(NamedTuple):
    """A buffer packed for keeping: of the numbers, as many bits as their bound has."""

    bits: tuple[torch.Tensor, ...]
    bounds: tuple[int, ...]
    bound: int
    spilled: tuple[torch.Tensor, ...]
    words: int


def settled(buffer: Buffer) -> Settled:
    """Pack a buffer: ceil(log2(bound)) bits a number, and the spilled words as they are."""
    bits, parts, numbers = (buffer.bound - 1).bit_length(), [], buffer.numbers
    while bits > 0:
        parts.append(pack((numbers & 255).to(torch.uint8), min(bits, 8)))
        numbers, bits = numbers >> 8, bits - 8
    words = numbers.numel()
    return Settled(tuple(parts), buffer.bounds, buffer.bound, buffer.spilled, words)


def unsettled(kept: Settled, device: torch.device) -> Buffer:
    """Unpack what `settled` packed."""
    bits = (kept.bound - 1).bit_length()
    numbers = torch.zeros(kept.words, dtype=torch.int64, device=device)
    for k, part in enumerate(kept.bits):
        byte = unpack(part, (kept.words,), (1,), min(bits - 8 * k, 8), torch.uint8)
        numbers |= byte.to(torch.int64) << (8 * k)
    return Buffer(numbers, kept.bounds, kept.bound, kept.spilled)
