"""Float streams, and of the rounding error of each step k bits: the way back hardly drifts.

A step rounds y = a + f to the stream's dtype, and y - f is not a any more. What it misses is at
most half a unit in the last place (ulp) of y: k bits of it are kept, in units of 2^-k ulp(y), which
the way back can work out from y and f alone. It then gives a itself wherever ulp(a) > 2^-k ulp(y),
which is where |a| > 2^-k |y| or so, and a to within 2^-k ulp(y) elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fxmem.ops import memory_stride, pack, unpack

from .arithmetic import Arithmetic
from .couplings import Coupling, Streams

Tensor = torch.Tensor

# Additions are done in a type with room for both operands, so that only the stream rounds. There
# is none for float64, where the error reaches a whole ulp and counts in units of twice the size.
WIDER = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float32: torch.float64,
    torch.float64: torch.float64,
}
EXPONENT = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the spacing of `dtype` at the magnitude of x, a float32 or float64 tensor, in x's."""
    word, mask = EXPONENT[x.dtype]
    power = (x.view(word) & mask).view(x.dtype)
    return power.clamp(min=torch.finfo(dtype).tiny) * torch.finfo(dtype).eps


def unit(y: Tensor, back: Tensor, gain: float, bits: int, dtype: torch.dtype) -> Tensor:
    """Return what a correction counts: 2^-bits of an ulp of y, times what undoing y multiplies it.

    `back` is what the plain inverse gives. Where it is the larger, its own spacing says enough.
    """
    span = 2.0 if WIDER[dtype] == dtype else 1.0
    return torch.maximum(ulp(y, dtype) * gain, ulp(back, dtype)) * (span * 2.0**-bits)


def correction(exact: Tensor, back: Tensor, unit: Tensor, bits: int) -> Tensor:
    """Return what `back` misses of `exact` as a code of `bits` bits, packed."""
    half = 2 ** (bits - 1)
    code = ((exact.to(back.dtype) - back) / unit).floor().nan_to_num(nan=0.0) + half
    return pack(code.clamp(0, 2 * half - 1).to(torch.uint8), bits)


def corrected(back: Tensor, unit: Tensor, code: Tensor, bits: int) -> Tensor:
    """Return `back` and what the code says that it misses: the middle of the code's interval."""
    steps = unpack(code, back.size(), memory_stride(back), bits, torch.uint8).to(back.dtype)
    return back + (steps - (2 ** (bits - 1) - 0.5)) * unit


class CompensatedStreams(NamedTuple):
    """Two float streams, and for each step so far the codes of what undoing it misses."""

    a: Tensor
    b: Tensor
    codes: tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class Compensated(Arithmetic):
    """Float streams and `bits` (1 to 8) bits an element for each addition that a step makes.

    An additive step makes one, a momentum step two. What is kept grows with depth by that much.
    `gain` is what undoing a step multiplies the error of its first stream by: 1, or 1 / gamma.
    """

    is_streams = False

    bits: int
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"compensate must be 1 to 8 bits; got {self.bits}")

    def enter(self, a: Tensor, b: Tensor) -> CompensatedStreams:
        """Take the streams as they are."""
        return CompensatedStreams(a, b, ())

    def values(self, state: CompensatedStreams) -> Streams:
        """Return the streams."""
        return state.a, state.b

    def step(self, state: CompensatedStreams, coupling: Coupling, f: Tensor) -> CompensatedStreams:
        """Step in the wider type, round, and keep what undoing it will miss."""
        dtype = state.a.dtype
        a, b, f = (t.to(WIDER[dtype]) for t in (state.a, state.b, f))
        first, second = coupling.forward(a, b, f)
        new_a = first.to(dtype)
        # A velocity that was rounded moves the position rounded: taking it back then misses the
        # rounding of the position alone. A stream that is passed on is not rounded at all.
        new = CompensatedStreams(new_a, (second + (new_a - first)).to(dtype), ())
        codes = ()
        plain, size = self._source(new, coupling)
        if size is not None:
            codes = (correction(state.b, plain, size, self.bits),)
        plain, size = self._first(new, coupling, b, f)
        codes = (*codes, correction(state.a, plain, size, self.bits))
        return new._replace(codes=(*state.codes, codes))

    def forgotten(self, state: CompensatedStreams) -> CompensatedStreams:
        """Return the state without its codes."""
        return state._replace(codes=())

    def source(self, state: CompensatedStreams, coupling: Coupling) -> Tensor:
        """Return what the branch read, corrected where the step does not pass it on."""
        plain, size = self._source(state, coupling)
        if size is not None:
            plain = corrected(plain, size, state.codes[-1][0], self.bits)
        return plain.to(state.a.dtype)

    def back(
        self, state: CompensatedStreams, coupling: Coupling, source: Tensor, f: Tensor
    ) -> CompensatedStreams:
        """Undo a step, and correct what that gives."""
        dtype = state.a.dtype
        wide = WIDER[dtype]
        plain, size = self._first(state, coupling, source.to(wide), f.to(wide))
        a = corrected(plain, size, state.codes[-1][-1], self.bits).to(dtype)
        return CompensatedStreams(a, source, state.codes[:-1])

    def _source(self, state: CompensatedStreams, coupling: Coupling) -> tuple[Tensor, Any]:
        """Return the source by plain arithmetic, and its unit; None where it is one of the streams.

        A coupling that passes its source on returns the very tensor that it was given.
        """
        a, b = state.a.to(WIDER[state.a.dtype]), state.b.to(WIDER[state.a.dtype])
        plain = coupling.source(a, b)
        if plain is a or plain is b:
            return plain, None
        return plain, unit(b, plain, 1.0, self.bits, state.a.dtype)

    def _first(
        self, state: CompensatedStreams, coupling: Coupling, source: Tensor, f: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the first stream before the step by plain arithmetic, and its unit."""
        a, b = state.a.to(source.dtype), state.b.to(source.dtype)
        plain, _ = coupling.inverse(a, b, source, f)
        changed = b if coupling.source(a, b) is a else a
        return plain, unit(changed, plain, self.gain, self.bits, state.a.dtype)
