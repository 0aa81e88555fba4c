"""Where a layer's products look: rows of the input itself, or of a convolution's windows.

All tensors are channels-last: [..., channels], and [batch, height, width, channels] of a
convolution, whose weight is [out, kernel height, kernel width, in / groups].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fxmem.ops.integer.windows import windows

Pair = tuple[int, int]


class Window(Protocol):
    """How a product's matrices, one a group, are taken from tensors of codes or of real numbers."""

    groups: int

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        """What each output reads, [groups, outputs, inputs]; padding has the code `fill`."""
        ...

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The outputs that each input of `size` had a part in, [groups, inputs, outputs]."""
        ...

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight that belongs to `input_rows`, [groups, outputs, in]."""
        ...

    def input_gradient(
        self, grad: torch.Tensor, weight: torch.Tensor, size: Sequence[int]
    ) -> torch.Tensor:
        """The gradient of inputs of `size`, of real numbers."""
        ...

    def weight_gradient(
        self, grad: torch.Tensor, x: torch.Tensor, size: Sequence[int]
    ) -> torch.Tensor:
        """The gradient of a weight of `size`, of real numbers."""
        ...


@dataclass(frozen=True)
class Dense:
    """A linear layer: every row reads itself."""

    groups = 1

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        return codes.flatten(0, -2).unsqueeze(0)

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return codes.flatten(0, -2).unsqueeze(0)

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.unsqueeze(0)

    def input_gradient(self, grad, weight, size):
        return grad @ weight

    def weight_gradient(self, grad, x, size):
        return grad.flatten(0, -2).t() @ x.flatten(0, -2)


@dataclass(frozen=True)
class Kernel:
    """A convolution of two dimensions."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def rows(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        place = (1, 1), self.padding, self.dilation, self.outs(codes.shape[1:3])
        return windows(codes, fill, self.kernel, self.stride, *place, self.groups)

    def input_rows(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        reach = zip(self.dilation, self.kernel, self.padding, strict=True)
        before = [d * (k - 1) - p for d, k, p in reach]
        place = self.stride, before, self.dilation, list(size[1:3])
        return windows(codes, 0, self.kernel, (1, 1), *place, self.groups)

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        parts = weight.flip(1, 2).unflatten(0, (self.groups, -1))
        return parts.permute(0, 2, 3, 1, 4).reshape(self.groups, -1, weight.size(3))

    def outs(self, sizes: Sequence[int]) -> list[int]:
        """The outputs' height and width, of inputs of these."""
        steps = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in steps]

    def input_gradient(self, grad, weight, size):
        return self._gradients(grad, grad.new_empty(*size), weight, (True, False))[0]

    def weight_gradient(self, grad, x, size):
        return self._gradients(grad, x, x.new_empty(*size), (False, True))[1]

    def _gradients(self, grad, x, weight, wants):
        """One of them is of a size alone: never read, but an expanded one would be copied."""
        first = (it.permute(0, 3, 1, 2) for it in (grad, x, weight))
        steps = None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        found = torch.ops.aten.convolution_backward(*first, *steps, [*wants, False])
        return [it if it is None else it.permute(0, 2, 3, 1) for it in found]


def window_of(weight: torch.Tensor, geometry: Sequence) -> Window:
    """Of a weight [out, ..., in] and a convolution's stride, padding, dilation and groups."""
    if not geometry:
        return Dense()
    *pairs, groups = geometry
    return Kernel(tuple(weight.shape[1:-1]), *(tuple(pair) for pair in pairs), groups)


def lead_of(x: torch.Tensor, window: Window) -> list[int]:
    """The outputs' sizes but the last."""
    if isinstance(window, Dense):
        return list(x.shape[:-1])
    return [x.size(0), *window.outs(x.shape[1:3])]
