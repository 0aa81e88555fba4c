"""The momentum step on fixed-point integers, exactly undone: what gamma loses is kept in a buffer.

    v = gamma * v + (1 - gamma) * f(x),  x = x + v

(Sander, Ablin, Blondel, Peyré, Momentum Residual Neural Networks, 2021, equation 2.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from fxmem.ops.shrinking.buffer import Buffer, Settled, settled, unsettled
from fxmem.ops.shrinking.multiplier import EXTRA, Multiplier, multiplier_for

from .arithmetic import Arithmetic
from .couplings import Coupling, Streams
from .fixed import (
    Grid,
    dequantised,
    grid,
    headroom,
    outside,
    quantised,
    report_overflow,
    scale_for,
)

# x in 64 bits leaves room for the velocity's extra ones.
WIDE = 50


class MomentumStreams(NamedTuple):
    """v as int64 [rounds, width, words], x in its own shape, their scale and the lost bits."""

    v: torch.Tensor
    x: torch.Tensor
    scale: torch.Tensor
    buffer: Buffer | Settled
    dtype: torch.dtype
    overflows: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class FixedMomentum(Arithmetic):
    """Fixed-point streams for momentum: log2(1 / gamma) bits an element a layer, in any number.

    `gamma` counts as the nearest fraction with a denominator up to 1024, above 0 and at most 1
    (ValueError otherwise). `headroom` as in Fixed. Kept beside the bits: 12 bytes an element for
    the last state, 16 for float64.
    """

    is_streams = False

    gamma: float
    headroom: int | None = None
    _multiplier: Multiplier = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_multiplier", multiplier_for(self.gamma))

    def enter(self, v: torch.Tensor, x: torch.Tensor) -> MomentumStreams:
        """Round velocity and position to a common grid, the velocity's finer by 10 bits."""
        held = _grid(x.dtype)
        largest = [t.detach().abs().amax() if t.numel() else t.new_zeros(()) for t in (v, x)]
        bits = held.bits - headroom(self.headroom, x.dtype, held.bits)
        scale = scale_for(torch.maximum(*largest), bits)
        n = quantised(x, scale, held)
        velocity = quantised(v, scale * 2.0**EXTRA, _finer(held))
        overflow = outside(n, held.bits) | outside(velocity, held.bits + EXTRA)
        laid_out = self._multiplier.laid_out(velocity)
        buffer = self._multiplier.empty(laid_out)
        return MomentumStreams(laid_out, n, scale, buffer, x.dtype, (overflow,))

    def values(self, state: MomentumStreams) -> Streams:
        """Return velocity and position as floats."""
        velocity = dequantised(_shaped(state.v, state.x), state.scale * 2.0**EXTRA, state.dtype)
        return velocity, dequantised(state.x, state.scale, state.dtype)

    def source(self, state: MomentumStreams, coupling: Coupling) -> torch.Tensor:
        """Return the position before the step, which its branch read."""
        return dequantised(state.x - _moved(state), state.scale, state.dtype)

    def step(self, state: MomentumStreams, coupling: Coupling, f: torch.Tensor) -> MomentumStreams:
        """Multiply the velocity by gamma, add the branch to it, and it to the position."""
        v, buffer = self._multiplier.multiply(state.v, state.buffer)
        state = state._replace(v=v + self._push(state, f), buffer=buffer)
        state = state._replace(x=state.x + _moved(state))
        bits = _grid(state.dtype).bits
        overflow = outside(state.x, bits) | outside(state.v, bits + EXTRA)
        return state._replace(overflows=(*state.overflows, overflow))

    def back(
        self, state: MomentumStreams, coupling: Coupling, source: torch.Tensor, f: torch.Tensor
    ) -> MomentumStreams:
        """Undo a step: the very integers from before."""
        x = state.x - _moved(state)
        v, buffer = self._multiplier.divide(state.v - self._push(state, f), state.buffer)
        return state._replace(v=v, x=x, buffer=buffer, overflows=())

    def check(self, state: MomentumStreams, names: Sequence[str]) -> MomentumStreams:
        """Raise RuntimeError if velocity or position left its range, naming the block."""
        report_overflow(state.overflows, names)
        return state._replace(overflows=())

    def forgotten(self, state: MomentumStreams) -> MomentumStreams:
        """Return the state without what spilled; the buffer's numbers go into the next steps."""
        return state._replace(buffer=state.buffer._replace(bounds=(), spilled=()))

    def kept(self, state: MomentumStreams) -> MomentumStreams:
        """Return the state with its buffer packed."""
        return state._replace(buffer=settled(state.buffer))

    def restored(self, kept: MomentumStreams) -> MomentumStreams:
        """Return the state with its buffer unpacked."""
        return kept._replace(buffer=unsettled(kept.buffer, kept.v.device))

    def _push(self, state: MomentumStreams, f: torch.Tensor) -> torch.Tensor:
        finer = _finer(_grid(state.dtype))
        rest = 1 - self._multiplier.n / self._multiplier.d
        units = quantised(f, state.scale.to(finer.compute) * (2.0**EXTRA * rest), finer)
        return self._multiplier.laid_out(units)


def _grid(dtype: torch.dtype) -> Grid:
    held = grid(dtype)
    return replace(held, bits=min(held.bits, WIDE))


def _finer(held: Grid) -> Grid:
    return Grid(torch.int64, held.bits + EXTRA, held.compute)


def _shaped(laid_out: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return laid_out.reshape(-1)[: like.numel()].view(like.shape)


def _moved(state: MomentumStreams) -> torch.Tensor:
    """How far the velocity moves the position, in its units: rounded half up."""
    units = (state.v + 2 ** (EXTRA - 1)) >> EXTRA
    return _shaped(units, state.x).to(state.x.dtype)
