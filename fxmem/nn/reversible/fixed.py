"""Streams as fixed-point integers: an addition of integers is undone exactly, at any depth.

A stream holds n, which stands for n * 2^-s. The scale 2^s is taken from the largest magnitude that
enters, with headroom above it for what the blocks will add; a step is n + round(f * 2^s). Integers
of 32 bits hold float32, bfloat16 and float16 streams, of 64 bits float64 ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .arithmetic import Arithmetic
from .couplings import Bijection, Coupling, Streams

# Powers of two by which a stream may outgrow its input: fewer where the bits below are needed for
# resolution, more where the dtype has none to lose.
HEADROOM = {torch.float32: 8, torch.bfloat16: 14, torch.float16: 14, torch.float64: 10}
# A stream that begins small or at zero will be added to by branches of the other one's size.
CLOSEST = 2.0**-8
# Scales beyond are of no use, and their reciprocals would not be normal numbers.
EXPONENTS = (-100, 100)


@dataclass(frozen=True)
class Grid:
    """Integers of a dtype that hold values below 2^bits, and the float type that scales them."""

    word: torch.dtype
    bits: int
    compute: torch.dtype

    @property
    def clamp(self) -> float:
        """The largest float of `compute` that rounds into the word."""
        return 2.0 ** (self.bits + 1) * (1 - torch.finfo(self.compute).eps / 2)


def grid(dtype: torch.dtype) -> Grid:
    """Return how a stream of `dtype` is held: one bit of the word is left to see overflow."""
    if dtype == torch.float64:
        return Grid(torch.int64, 62, torch.float64)
    if dtype not in HEADROOM:
        raise ValueError(f"exact streams are float32, bfloat16, float16 or float64; got {dtype}")
    return Grid(torch.int32, 30, torch.float32)


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """Return 2^exponent as float32, from its bits: exactly, on every device."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def scale_for(amax: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the largest power of two (float32) with amax * scale < 2^bits."""
    exponent = (amax.float().view(torch.int32) >> 23) - 127
    return power_of_two((bits - 1 - exponent).clamp(*EXPONENTS))


def scales_for(a: torch.Tensor, b: torch.Tensor, bits: int) -> Streams:
    """Return a scale for each of two streams, taken from its data with no synchronisation."""
    first, second = (x.detach().abs().amax() if x.numel() else x.new_zeros(()) for x in (a, b))
    return (
        scale_for(torch.maximum(first, second * CLOSEST), bits),
        scale_for(torch.maximum(second, first * CLOSEST), bits),
    )


def quantised(x: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return round(x * scale) in the grid's word; what does not fit or is no number saturates.

    A sum of a saturated integer and one below 2^bits is 2^bits or more, whether it wraps or not.
    """
    units = (x.to(grid.compute) * scale.to(grid.compute)).round()
    units = units.nan_to_num(nan=grid.clamp, posinf=grid.clamp, neginf=-grid.clamp)
    return units.clamp(-grid.clamp, grid.clamp).to(grid.word)


def dequantised(n: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the float that an integer stands for."""
    compute = grid(dtype).compute
    return (n.to(compute) * scale.to(compute).reciprocal()).to(dtype)


def outside(n: torch.Tensor, bits: int) -> torch.Tensor:
    """Return whether any integer is 2^bits or more in magnitude, bool []."""
    if not n.numel():
        return torch.zeros((), dtype=torch.bool, device=n.device)
    low, high = n.aminmax()
    return (low <= -(2**bits)) | (high >= 2**bits)


class FixedStreams(NamedTuple):
    """Two integer streams, their scales, and for each step so far whether it overflowed."""

    a: torch.Tensor
    b: torch.Tensor
    scale_a: torch.Tensor
    scale_b: torch.Tensor
    dtype: torch.dtype
    overflows: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Fixed(Arithmetic):
    """Fixed-point streams, for additive couplings and bijections.

    The gradient is that of the same network with everything kept, bit for bit.

    `headroom` says by how many powers of two a stream may outgrow what enters (None: 8 for float32,
    14 for half precision, 10 for float64). The resolution is 2^-(30 - headroom) of the largest
    magnitude that enters, 2^-(62 - headroom) for float64.
    """

    is_streams = False

    headroom: int | None = None

    def enter(self, a: torch.Tensor, b: torch.Tensor) -> FixedStreams:
        """Round two float streams to their grids."""
        held = grid(a.dtype)
        scales = scales_for(a, b, held.bits - headroom(self.headroom, a.dtype, held.bits))
        n_a, n_b = (quantised(x, scale, held) for x, scale in zip((a, b), scales, strict=True))
        overflow = outside(n_a, held.bits) | outside(n_b, held.bits)
        return FixedStreams(n_a, n_b, *scales, a.dtype, (overflow,))

    def values(self, state: FixedStreams) -> Streams:
        """Return the floats that the integers stand for."""
        return (
            dequantised(state.a, state.scale_a, state.dtype),
            dequantised(state.b, state.scale_b, state.dtype),
        )

    def source(self, state: FixedStreams, coupling: Coupling) -> torch.Tensor:
        """Return the stream that the branch read, which the step passed on as it was."""
        if isinstance(coupling, Bijection):
            return dequantised(coupling.undo(state.b), state.scale_b, state.dtype)
        return dequantised(state.a, state.scale_a, state.dtype)

    def step(self, state: FixedStreams, coupling: Coupling, f: torch.Tensor) -> FixedStreams:
        """Add the rounded branch, and swap the streams."""
        if isinstance(coupling, Bijection):
            overflows = (*state.overflows, torch.zeros_like(state.overflows[0]))
            a, b = coupling.function(state.a), coupling.function(state.b)
            return state._replace(a=a, b=b, overflows=overflows)
        held = grid(state.dtype)
        n = state.a + quantised(f, state.scale_a, held)
        overflows = (*state.overflows, outside(n, held.bits))
        return FixedStreams(state.b, n, state.scale_b, state.scale_a, state.dtype, overflows)

    def back(
        self, state: FixedStreams, coupling: Coupling, source: torch.Tensor, f: torch.Tensor
    ) -> FixedStreams:
        """Subtract the rounded branch: the very integers from before the step."""
        if isinstance(coupling, Bijection):
            return state._replace(a=coupling.undo(state.a), b=coupling.undo(state.b))
        n = state.b - quantised(f, state.scale_b, grid(state.dtype))
        return FixedStreams(n, state.a, state.scale_b, state.scale_a, state.dtype, ())

    def check(self, state: FixedStreams, names: Sequence[str]) -> FixedStreams:
        """Raise RuntimeError if a stream left its range, naming the block that did it."""
        report_overflow(state.overflows, names)
        return state._replace(overflows=())


def headroom(asked: int | None, dtype: torch.dtype, bits: int) -> int:
    """Return the headroom in powers of two, the dtype's own where none is asked for."""
    if asked is None:
        return HEADROOM[dtype]
    if not 0 <= asked < bits:
        raise ValueError(f"headroom must be 0 to {bits - 1} powers of two; got {asked}")
    return asked


def report_overflow(overflows: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    """Raise RuntimeError for the first of these flags that is set; flag 0 is the input's.

    One synchronisation for a whole forward; under torch.compile an assertion on the device.
    """
    flags = torch.stack(tuple(overflows))
    if torch.compiler.is_compiling():
        torch._assert_async(~flags.any(), f"{_WHAT} (which block, an eager forward says)")
    elif (found := flags.tolist()) and any(found):
        first = found.index(True)
        who = names[first - 1] if first else "the input"
        raise RuntimeError(f"{who} gives {_WHAT}")


_WHAT = (
    "a stream of exact=True a value that is not finite or beyond its fixed-point range: allow it "
    "more headroom (headroom=k is 2**k times the largest input), or normalise what the blocks add"
)
