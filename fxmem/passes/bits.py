"""Whole numbers from zero up in no more bits than they need: nodes that pack and unpack them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import fx

from fxmem import ops
from fxmem.passes.emit import Emit, Sizes
from fxmem.passes.graph import aten, tensor
from fxmem.passes.operators import CAST

STREAM = 8  # bits of a number that one stream holds at most


def packed_bytes(numel: int, bits: int) -> int:
    """Return the bytes of all streams of `numel` numbers of so many bits."""
    return sum(ops.packed_bytes(numel, width) for _, width in _streams(bits))


def pack(emit: Emit, numbers: fx.Node, bits: int) -> list[fx.Node]:
    """Pack flat numbers into streams of uint8, the lowest bits first."""
    return [_pack(emit, numbers, *stream) for stream in _streams(bits)]


def unpack(
    emit: Emit,
    streams: Sequence[fx.Node],
    bits: int,
    size: Sizes,
    stride: Sizes,
    dtype: torch.dtype,
) -> fx.Node:
    """Unpack what `pack` made into numbers of that size and dtype, and of dense strides."""
    unpacked = partial(emit, torch.ops.fxmem.unpack.default)
    if dtype == torch.bool:
        return unpacked(*streams, size, stride, bits, dtype)

    def part(stream: fx.Node, shift: int, width: int) -> fx.Node:
        low = unpacked(stream, size, stride, width, torch.uint8)
        whole = emit(CAST, low, dtype)
        return emit(aten.bitwise_left_shift.Tensor_Scalar, whole, shift) if shift else whole

    found, *others = map(part, streams, *zip(*_streams(bits), strict=True))
    for other in others:
        found = emit(aten.bitwise_or.Tensor, found, other)
    return found


def _pack(emit: Emit, numbers: fx.Node, shift: int, width: int) -> fx.Node:
    if shift:
        numbers = emit(aten.bitwise_right_shift.Tensor_Scalar, numbers, shift)
    # What does not fit into a byte is dropped by the cast, and the rest above `width` by `pack`.
    if tensor(numbers).dtype != torch.bool:
        numbers = emit(CAST, numbers, torch.uint8)
    return emit(torch.ops.fxmem.pack.default, numbers, width)


def _streams(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the lowest bit and the width of each stream."""
    for shift in range(0, bits, STREAM):
        yield shift, min(STREAM, bits - shift)
