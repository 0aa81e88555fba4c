"""Where a layer's products look: rows of the input itself, or of a convolution's windows.

All tensors are channels-last: [..., channels], and [batch, height, width, channels] of a
convolution, whose weight is [out, kernel height, kernel width, in].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

Pair = tuple[int, int]


class Window(Protocol):
    """How the rows of a product are taken from tensors of codes."""

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        """The rows that each output reads, [outputs, inputs]; padding has the code `fill`."""
        ...

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The outputs' rows that each input of `size` had a part in, [inputs, outputs]."""
        ...

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight that belongs to `input_rows`, [outputs, in]."""
        ...


@dataclass(frozen=True)
class Dense:
    """A linear layer: every row reads itself."""

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        return codes.reshape(-1, codes.size(-1))

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return codes.reshape(-1, codes.size(-1))

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


@dataclass(frozen=True)
class Kernel:
    """A convolution of two dimensions without groups."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        high, wide = self.padding
        padded = F.pad(codes, (0, 0, wide, wide, high, high), value=fill) if high or wide else codes
        return _windows(padded, self.kernel, self.stride, self.dilation)

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        batch, high, wide, channels = codes.shape
        spread = codes
        if self.stride != (1, 1):
            down, across = self.stride
            spread = codes.new_zeros(
                batch, (high - 1) * down + 1, (wide - 1) * across + 1, channels
            )
            spread[:, ::down, ::across] = codes
        pads = [0, 0]
        for d in (1, 0):
            reach = self.dilation[d] * (self.kernel[d] - 1)
            before = reach - self.padding[d]
            pads += [before, size[1 + d] + reach - spread.size(1 + d) - before]
        return _windows(F.pad(spread, pads), self.kernel, (1, 1), self.dilation)

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.flip(1, 2).permute(1, 2, 0, 3).reshape(-1, weight.size(3))


def _windows(x: torch.Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> torch.Tensor:
    """The windows of [batch, height, width, channels], one a row."""
    x = x.contiguous()
    batch, *sizes, channels = x.shape
    outs = [
        (size - reach * (k - 1) - 1) // step + 1
        for size, k, step, reach in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    b, h, w, c = x.stride()
    steps = (b, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c)
    views = x.as_strided((batch, *outs, *kernel, channels), steps)
    return views.reshape(batch * outs[0] * outs[1], kernel[0] * kernel[1] * channels)


def window_of(weight: torch.Tensor, geometry: Sequence[Sequence[int]]) -> Window:
    """Of a weight [out, ..., in]; without stride, padding and dilation of a linear layer."""
    pairs = (tuple(pair) for pair in geometry)
    return Kernel(tuple(weight.shape[1:-1]), *pairs) if geometry else Dense()


def lead_of(x: torch.Tensor, weight: torch.Tensor, geometry: Sequence[Sequence[int]]) -> list[int]:
    """The outputs' sizes but the last."""
    if not geometry:
        return list(x.shape[:-1])
    sizes = zip(x.shape[1:-1], weight.shape[1:-1], *geometry, strict=True)
    return [x.size(0), *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)]
