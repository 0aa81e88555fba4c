"""How one tensor becomes two streams, and two streams one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from .couplings import Streams, size_of

Tensor = torch.Tensor


class Ends(Protocol):
    """Both ends of a chain. `whole` says that `split` gives the streams back from the output."""

    whole: bool

    def split(self, x: Tensor) -> Streams:
        """Return the two streams that a chain begins with. Differentiable."""

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Return what the user sees of the last two streams. Differentiable."""

    def gradients(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of `join`."""


@dataclass(frozen=True)
class Halves:
    """The streams are the two halves of a dimension.

    Raises:
        ValueError: for a dimension of odd size, or one that is not there.
    """

    dim: int
    whole = True

    def split(self, x: Tensor) -> Streams:
        size = size_of(x, self.dim, "split_dim")
        if size % 2:
            raise ValueError(
                f"split_dim={self.dim} of an input of shape {list(x.shape)} has odd size {size}: "
                "it is cut in two halves, so make it even, or choose another dimension"
            )
        first, second = x.chunk(2, self.dim)
        return first, second

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], self.dim)

    def gradients(self, g: Tensor) -> Streams:
        first, second = g.chunk(2, self.dim)
        return first, second


@dataclass(frozen=True)
class Twice:
    """Both streams begin as the input; the output is their mean (Reformer, Kitaev et al. 2020)."""

    whole = False

    def split(self, x: Tensor) -> Streams:
        return x, x

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2

    def gradients(self, g: Tensor) -> Streams:
        return g / 2, g / 2
