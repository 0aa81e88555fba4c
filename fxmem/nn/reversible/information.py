"""Multiplication of integers by a fraction below one that can be undone, and what that costs.

v * n / d is no bijection: log2(d / n) bits of v are lost. They go into a buffer, a number i in
mixed radix: push v mod d, multiply v // d by n, and fill up with i mod n, popped. Elements share a
number, whose bound is known without a look at the data: so it is kept in exactly ceil(log2(bound))
bits, and what exceeds the working word goes off in words of 16 bits. (Maclaurin, Duvenaud, Adams,
Gradient-based Hyperparameter Optimization through Reversible Learning, 2015, algorithm 3.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from .buffer import Buffer

# Above the bound that a push needs, and below int64's: products stay positive numbers.
LARGEST = 2**62
# A push may multiply the bound by this at most, so that 22 bits are left for the number itself.
RADIX = 2**40
WIDEST, MOST_ROUNDS = 16, 16
SPILL = 16
DENOMINATOR = 1024


def fraction(gamma: float) -> Fraction:
    """Return the fraction with a denominator up to 1024 that is nearest to gamma, in (0, 1]."""
    near = Fraction(gamma).limit_denominator(DENOMINATOR)
    if not 0 < near <= 1:
        raise ValueError(
            f"gamma must be above 0 and at most 1 for an exact way back; got {gamma}: at 0 the "
            "velocity is lost in every step"
        )
    return near


@dataclass(frozen=True)
class Multiplier:
    """Multiplies int64 tensors [rounds, width, words] by n / d, reversibly.

    A push takes `width` elements at once, a multiplication `rounds` pushes into the same number.
    The number is whole, so its bound is rounded up at each push: some bits a number in all, which
    the sharing divides by rounds * width. All fields are ints, which torch.compile traces.
    """

    n: int
    d: int
    width: int
    rounds: int

    @property
    def shared(self) -> int:
        """How many elements share a number."""
        return self.rounds * self.width

    @property
    def radices(self) -> tuple[int, int]:
        """What a push multiplies the number by, and what its pop divides it by."""
        return self.d**self.width, self.n**self.width

    def laid_out(self, v: torch.Tensor) -> torch.Tensor:
        """Return the elements of `v` as int64 [rounds, width, words], zeros filled in."""
        flat = v.reshape(-1).to(torch.int64)
        words = -(-flat.numel() // self.shared)
        padded = torch.nn.functional.pad(flat, (0, words * self.shared - flat.numel()))
        return padded.view(self.rounds, self.width, words)

    def empty(self, v: torch.Tensor) -> Buffer:
        """Return the buffer that nothing has been pushed to, for what `laid_out` gave."""
        return Buffer(torch.zeros_like(v[0, 0]), (), 1, ())

    def multiply(self, v: torch.Tensor, buffer: Buffer) -> tuple[torch.Tensor, Buffer]:
        """Return v * n / d up to n units, and the buffer with what that lost.

        In a graph nobody asks for it back: there it is rounded down, and nothing is pushed.
        """
        if self.n == self.d:
            return v, buffer
        if torch.compiler.is_compiling():
            return self._rounded_down(v), buffer
        numbers, bound, spilled, parts = buffer.numbers, buffer.bound, buffer.spilled, []
        for part in v.unbind(0):
            while self._must_spill(bound):
                low = (numbers & (2**SPILL - 1)) - 2 ** (SPILL - 1)
                spilled = (*spilled, low.to(torch.int16))
                numbers, bound = numbers >> SPILL, -(-bound // 2**SPILL)
            part, numbers = self._exchanged(part, numbers, self.d, self.n)
            parts.append(part)
            bound = self._grown(bound)
        bounds = (*buffer.bounds, buffer.bound)
        return torch.stack(parts), Buffer(numbers, bounds, bound, spilled)

    def divide(self, v: torch.Tensor, buffer: Buffer) -> tuple[torch.Tensor, Buffer]:
        """Return what `multiply` was given for what it returned, bit for bit."""
        if self.n == self.d:
            return v, buffer
        numbers, spilled, parts = buffer.numbers, list(buffer.spilled), []
        for part, spills in zip(reversed(v.unbind(0)), reversed(self._spills(buffer)), strict=True):
            part, numbers = self._exchanged(part, numbers, self.n, self.d)
            parts.append(part)
            for _ in range(spills):
                low = spilled.pop().to(torch.int64) + 2 ** (SPILL - 1)
                numbers = (numbers << SPILL) | low
        before = Buffer(numbers, buffer.bounds[:-1], buffer.bounds[-1], tuple(spilled))
        return torch.stack(parts[::-1]), before

    def _exchanged(
        self, v: torch.Tensor, numbers: torch.Tensor, taken: int, given: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Push v mod `taken`, and fill v // taken * given up with digits popped in base `given`."""
        whole = v.div(taken, rounding_mode="floor")
        numbers = numbers * taken**self.width + self._joined(v - whole * taken, taken)
        radix = given**self.width
        rest = numbers // radix
        return whole * given + self._digits(numbers - rest * radix, given), rest

    def _rounded_down(self, v: torch.Tensor) -> torch.Tensor:
        whole = v.div(self.d, rounding_mode="floor")
        rest = (v - whole * self.d) * self.n
        return whole * self.n + rest.div(self.d, rounding_mode="floor")

    def _powers(self, like: torch.Tensor, base: int) -> torch.Tensor:
        # Made on the device: a copy from the host would wait for it.
        return torch.pow(base, torch.arange(self.width, device=like.device)).unsqueeze(1)

    def _joined(self, digits: torch.Tensor, base: int) -> torch.Tensor:
        return (digits * self._powers(digits, base)).sum(0)

    def _digits(self, joined: torch.Tensor, base: int) -> torch.Tensor:
        quotients = joined.unsqueeze(0) // self._powers(joined, base)
        next_ones = torch.nn.functional.pad(quotients[1:], (0, 0, 0, 1))
        return quotients - next_ones * base

    def _must_spill(self, bound: int) -> bool:
        return bound * self.radices[0] > LARGEST

    def _grown(self, bound: int) -> int:
        pushed, popped = self.radices
        return -(-bound * pushed // popped)

    def _spills(self, buffer: Buffer) -> list[int]:
        """How often each push of the last multiplication had to spill before."""
        bound, counts = buffer.bounds[-1], []
        for _ in range(self.rounds):
            counts.append(0)
            while self._must_spill(bound):
                bound, counts[-1] = -(-bound // 2**SPILL), counts[-1] + 1
            bound = self._grown(bound)
        return counts


def multiplier_for(gamma: float) -> Multiplier:
    """Return the multiplier for `fraction(gamma)`, with what is wide enough for its radices.

    As many elements a push as the radix allows; and about as many pushes as make one bit a layer.
    """
    n, d = fraction(gamma).as_integer_ratio()
    width = WIDEST if d == 1 else min(WIDEST, int(math.log(RADIX, d)))
    gained = width * math.log2(d / n)
    rounds = 1 if n == d else min(MOST_ROUNDS, math.ceil(1 / gained))
    return Multiplier(n, d, width, rounds)
