"""Multiplication of integers by a fraction below one that can be undone, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from .buffer import Buffer
from .operators import WIDEST_PUSH, shrink, shrunk, unshrink

# A push may multiply the bound by this at most, so that 22 bits are left for the number itself.
RADIX = WIDEST_PUSH
WIDEST, MOST_ROUNDS = 16, 16
DENOMINATOR = 1024
# So many bits finer is what is multiplied: a product is off by up to n units.
EXTRA = (DENOMINATOR - 1).bit_length()


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
    def shape(self) -> tuple[int, int, int]:
        """The shape of what is multiplied, words last."""
        return self.rounds, self.width, -1

    def missing(self, count: int) -> int:
        """Return how many elements fill the last words up."""
        return -count % self.shared

    @property
    def radices(self) -> tuple[int, int]:
        """What a push multiplies the number by, and what its pop divides it by."""
        return self.d**self.width, self.n**self.width

    def laid_out(self, v: torch.Tensor) -> torch.Tensor:
        """Return the elements of `v` as int64 [rounds, width, words], zeros filled in."""
        flat = v.reshape(-1).to(torch.int64)
        return torch.nn.functional.pad(flat, (0, self.missing(flat.numel()))).view(self.shape)

    def empty(self, v: torch.Tensor) -> Buffer:
        """Return the buffer that nothing has been pushed to, for what `laid_out` gave."""
        return Buffer(torch.zeros_like(v[0, 0]), (), 1, ())

    def multiply(self, v: torch.Tensor, buffer: Buffer) -> tuple[torch.Tensor, Buffer]:
        """Return v * n / d up to n units, and the buffer with what that lost."""
        if self.n == self.d:
            return v, buffer
        v, numbers, words = shrink(v, buffer.numbers, self.n, self.d, buffer.bound)
        spills, bound = self.after(buffer.bound)
        spilled = (*buffer.spilled, words) if spills else buffer.spilled
        return v, Buffer(numbers, (*buffer.bounds, buffer.bound), bound, spilled)

    def divide(self, v: torch.Tensor, buffer: Buffer) -> tuple[torch.Tensor, Buffer]:
        """Return what `multiply` was given for what it returned, bit for bit."""
        if self.n == self.d:
            return v, buffer
        (*bounds, bound), spilled = buffer.bounds, buffer.spilled
        words = None
        if self.after(bound)[0]:
            *spilled, words = spilled
        v, numbers = unshrink(v, buffer.numbers, words, self.n, self.d, bound)
        return v, Buffer(numbers, tuple(bounds), bound, tuple(spilled))

    def after(self, bound: int) -> tuple[int, int]:
        """Return what `shrunk` does: how many words are spilled, and the bound then."""
        return shrunk(self.n, self.d, self.width, self.rounds, bound)


def multiplier_for(gamma: float) -> Multiplier:
    """Return the multiplier for `fraction(gamma)`, with what is wide enough for its radices.

    As many elements a push as the radix allows; and about as many pushes as make one bit a layer.
    """
    n, d = fraction(gamma).as_integer_ratio()
    width = WIDEST if d == 1 else min(WIDEST, int(math.log(RADIX, d)))
    gained = width * math.log2(d / n)
    rounds = 1 if n == d else min(MOST_ROUNDS, math.ceil(1 / gained))
    return Multiplier(n, d, width, rounds)
