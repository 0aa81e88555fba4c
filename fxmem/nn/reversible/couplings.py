"""How a block's output joins the two streams, and how the inputs are had back from the outputs.

A step reads one stream, b, through its block, f = F(b), and gives two new streams. Half-residual
couplings (RevLib's) swap: (a, b) becomes (b, c(a, f)). Momentum updates both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor
Streams = tuple[Tensor, Tensor]


def size_of(x: Tensor, dim: int, name: str) -> int:
    """Return a tensor's size; raise ValueError, with the option's name, for no dimension of it."""
    if not -x.dim() <= dim < x.dim():
        allowed = f"from {-x.dim()} to {x.dim() - 1}" if x.dim() else "none: it is a single number"
        raise ValueError(
            f"{name}={dim} is no dimension of a tensor of shape {list(x.shape)}, which has "
            f"{allowed}"
        )
    return x.shape[dim]


class Coupling:
    """An invertible step of two streams; it holds settings, no tensors that are trained."""

    keeps_shape = True

    def forward(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        """Return the streams after the step; `f` is the block's output for `b`. Differentiable."""
        raise NotImplementedError

    def source(self, a: Tensor, b: Tensor) -> Tensor:
        """Return what the block read, from the streams after the step."""
        raise NotImplementedError

    def inverse(self, a: Tensor, b: Tensor, source: Tensor, f: Tensor) -> Streams:
        """Return the streams before the step, from those after it and the block's `f(source)`."""
        raise NotImplementedError


class HalfResidual(Coupling):
    """(a, b) becomes (b, combine(a, f)): one stream is passed on as it is, and the two swap."""

    def combine(self, a: Tensor, f: Tensor) -> Tensor:
        raise NotImplementedError

    def separate(self, y: Tensor, f: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        return b, self.combine(a, f)

    def source(self, a: Tensor, b: Tensor) -> Tensor:
        return a

    def inverse(self, a: Tensor, b: Tensor, source: Tensor, f: Tensor) -> Streams:
        return self.separate(b, f), source


@dataclass(frozen=True)
class AdditiveCoupling(HalfResidual):
    """y = a + f (Gomez et al. 2017, The Reversible Residual Network, eq. 6)."""

    def combine(self, a: Tensor, f: Tensor) -> Tensor:
        return a + f

    def separate(self, y: Tensor, f: Tensor) -> Tensor:
        return y - f


@dataclass(frozen=True)
class AffineCoupling(HalfResidual):
    """y = a · exp(s) + t (Dinh et al. 2017, Density estimation using Real NVP, eq. 4).

    The block gives t and the raw log-scale r side by side on `dim`, so twice the stream's size
    there; s = limit · tanh(r / limit) keeps the scale within exp(±limit), away from 0.
    """

    dim: int = 1
    limit: float = 1.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"limit must be above 0, got {self.limit}")

    def combine(self, a: Tensor, f: Tensor) -> Tensor:
        shift, log_scale = self._parts(f)
        return a * log_scale.exp() + shift

    def separate(self, y: Tensor, f: Tensor) -> Tensor:
        shift, log_scale = self._parts(f)
        return (y - shift) * (-log_scale).exp()

    def _parts(self, f: Tensor) -> Streams:
        size = size_of(f, self.dim, "dim")
        if size % 2:
            raise ValueError(
                "the block of an affine coupling gives shift and log-scale side by side: size "
                f"{size} of dimension {self.dim} is odd"
            )
        shift, raw = f.chunk(2, self.dim)
        return shift, self.limit * (raw / self.limit).tanh()


@dataclass(frozen=True)
class FunctionCoupling(HalfResidual):
    """A pair of functions as RevLib has it: y = function(a, f) and a = undo(y, f)."""

    function: Callable[[Tensor, Tensor], Tensor]
    undo: Callable[[Tensor, Tensor], Tensor]

    def combine(self, a: Tensor, f: Tensor) -> Tensor:
        return self.function(a, f)

    def separate(self, y: Tensor, f: Tensor) -> Tensor:
        return self.undo(y, f)


@dataclass(frozen=True)
class MomentumCoupling(Coupling):
    """v' = γ·v + (1 - γ)·f, x' = x + v' (Sander et al. 2021, Momentum ResNets, eq. 3).

    The streams are (v, x), and the block reads x.

    Raises:
        ValueError: for a gamma that is not above 0 and at most 1: γ = 0 forgets v for good.
    """

    gamma: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, got {self.gamma}")

    def forward(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        velocity = self.gamma * a + (1 - self.gamma) * f
        return velocity, b + velocity

    def source(self, a: Tensor, b: Tensor) -> Tensor:
        return b - a

    def inverse(self, a: Tensor, b: Tensor, source: Tensor, f: Tensor) -> Streams:
        return (a - (1 - self.gamma) * f) / self.gamma, source


@dataclass(frozen=True)
class Bijection(Coupling):
    """Both streams through a function that only moves elements, such as squeezing space to depth.

    It has an inverse, and may change the streams' shape; the block, `torch.nn.Identity()`, adds
    nothing. What Jacobsen et al. 2018, i-RevNet, have between stages.
    """

    function: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]
    keeps_shape = False

    def forward(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        return self.function(a), self.function(b)

    def source(self, a: Tensor, b: Tensor) -> Tensor:
        return self.undo(b)

    def inverse(self, a: Tensor, b: Tensor, source: Tensor, f: Tensor) -> Streams:
        return self.undo(a), source
