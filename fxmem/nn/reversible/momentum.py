"""Momentum residual networks: residual networks that can be undone.

(Sander, Ablin, Blondel, Peyré, Momentum Residual Neural Networks, 2021.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .couplings import Coupling, MomentumCoupling, Streams
from .fused import FusedOptimizers
from .residual import residual_to_plain
from .sequential import ReversibleSequential

Tensor = torch.Tensor


@dataclass(frozen=True)
class Position:
    """The streams are velocity and position; the chain begins at rest and gives the position."""

    whole = False

    def split(self, x: Tensor) -> Streams:
        return torch.zeros_like(x), x

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return b

    def gradients(self, g: Tensor) -> tuple[None, Tensor]:
        return None, g


@dataclass(frozen=True)
class Memoryless(Coupling):
    """gamma = 0: v' = f, x' = x + f, the plain residual step, which cannot be undone."""

    def forward(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        return f, b + f


def momentum_coupling(gamma: float, memory: str) -> Coupling:
    """Return the coupling for a gamma from 0 to 1, or raise ValueError in a sentence."""
    if gamma != 0:
        return MomentumCoupling(gamma)
    if memory == "reversible":
        raise ValueError(
            "gamma=0 is the plain residual network x + f(x): a step forgets the velocity, and "
            "cannot be undone; take a gamma above 0, or memory='checkpoint'"
        )
    return Memoryless()


def held_exactly(exact: bool | None, compensate: int | None, memory: str) -> bool:
    """Return whether streams are fixed-point integers; None asks for what the memory needs."""
    return memory == "reversible" and compensate is None if exact is None else exact


class MomentumNet(ReversibleSequential):
    """x = x + v with v = gamma * v + (1 - gamma) * f(x), function after function.

    The state is had back from the last one in the backward. Plain floats would not do for that:
    undoing a step divides the rounding error by gamma, 10^19 times over at gamma 0.5 in 64 layers.
    So the streams are fixed-point integers, and the log2(1 / gamma) bits an element that a layer
    loses are kept. The arguments are those of momentumnet's class of this name, and fxmem's own.
    Under torch.compile the graph decides what is kept: backend="fxmem" finds the chain, of integers
    as of floats, and keeps the same bits.

    Args:
        functions: modules or functions, called with x and the extra arguments.
        gamma: from 0 to 1. 0 is the plain residual network, which memory="reversible" cannot be.
        init_speed: whether v begins as `init_function(x)`, otherwise at 0.
        init_function: see there; trained with the rest.
        use_backprop: momentumnet's word for memory: True is "none", False "reversible".
        is_residual: whether a function gives what is added; if not, it is `f(x) - x` that counts.
        memory: "reversible", "checkpoint" or "none", as in `ReversibleSequential`.
        exact: None for fixed-point streams where memory="reversible", unless `compensate` is given.
        compensate, headroom, target_device, fused_optimizer: as in `ReversibleSequential`.

    Raises:
        ValueError: for a gamma outside [0, 1], gamma 0 with memory="reversible", or init_speed
            without an init_function.
    """

    def __init__(
        self,
        functions: Iterable[Callable[..., Tensor]],
        gamma: float = 0.9,
        init_speed: bool = False,
        init_function: Callable[[Tensor], Tensor] | None = None,
        use_backprop: bool | None = None,
        is_residual: bool = True,
        *,
        memory: str = "reversible",
        exact: bool | None = None,
        compensate: int | None = None,
        headroom: int | None = None,
        target_device: torch.device | str | None = None,
        fused_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    ) -> None:
        if use_backprop is not None:
            memory = "none" if use_backprop else "reversible"
        if init_speed and init_function is None:
            raise ValueError("init_speed=True needs init_function, which gives the first velocity")
        super().__init__(
            *(functions if is_residual else map(residual_to_plain, functions)),
            split_dim=None,
            coupling=momentum_coupling(gamma, memory),
            memory=memory,
            exact=held_exactly(exact, compensate, memory),
            compensate=compensate,
            headroom=headroom,
            target_device=target_device,
        )
        self.gamma, self.init_speed, self.is_residual = gamma, init_speed, is_residual
        self.init_function = init_function
        self.fused = fused_optimizer and FusedOptimizers(self, fused_optimizer)

    def forward(self, inp: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the last x, of the input's shape; `args` and `kwargs` go to every function."""
        ends = Position()
        v, x = ends.split(inp)
        if self.init_speed:
            v = self.init_function(x).to(x.dtype)
        return self._through(ends, (v, x), [(args, kwargs)] * len(self))

    @property
    def functions(self) -> list[Any]:
        """The functions, in order."""
        return [step.block for step in self.steps]
