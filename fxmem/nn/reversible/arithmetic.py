"""How the two streams of a reversible chain are held, stepped and stepped back.

The plain arithmetic below holds them as the floats they are: undoing an addition rounds again, and
the states of a deep chain drift. `fixed`, `fixed_momentum` and `compensated` hold what makes the
way back exact, or nearly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .couplings import Coupling, Streams

Tensor = torch.Tensor


class FloatStreams(NamedTuple):
    """The state of a chain whose streams are plain floats."""

    a: Tensor
    b: Tensor


class Arithmetic:
    """Floats as they are; settings only, no state of its own.

    A state is a pytree that nothing changes: each step makes a new one. All is called without
    gradients. `is_streams` says that a state is nothing but the two float streams, so that what
    holds them holds the state.
    """

    is_streams: bool = True

    def enter(self, a: Tensor, b: Tensor) -> Any:
        """Return the state that holds two float streams of one dtype."""
        return FloatStreams(a, b)

    def values(self, state: Any) -> Streams:
        """Return the float streams of a state: what blocks read and the user sees."""
        return state.a, state.b

    def step(self, state: Any, coupling: Coupling, f: Tensor) -> Any:
        """Return the state after a step whose block gave `f`."""
        return FloatStreams(*coupling.forward(state.a, state.b, f))

    def source(self, state: Any, coupling: Coupling) -> Tensor:
        """Return what the block of the last step read, from the state after it."""
        return coupling.source(state.a, state.b)

    def back(self, state: Any, coupling: Coupling, source: Tensor, f: Tensor) -> Any:
        """Return the state before a step, from that after it; its block read `source`."""
        return FloatStreams(*coupling.inverse(state.a, state.b, source, f))

    def check(self, state: Any, names: Sequence[str]) -> Any:
        """Return the state after a whole forward, or raise RuntimeError in a sentence.

        `names[k]` is what the block of step k is called.
        """
        return state

    def forgotten(self, state: Any) -> Any:
        """Return the state without what only the way back needs."""
        return state

    def kept(self, state: Any) -> Any:
        """Return the state as it is kept for the backward, a pytree; `restored` undoes it."""
        return state

    def restored(self, kept: Any) -> Any:
        """Return the state that `kept` was made from."""
        return kept


class _Carried(torch.autograd.Function):
    """The value of one tensor, the gradient of another."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def carried(carriers: Streams, values: Streams) -> Streams:
    """Return `values`, differentiated as if they were `carriers`: rounding has slope one."""
    first, second = (_Carried.apply(c, v) for c, v in zip(carriers, values, strict=True))
    return first, second
