"""Integers times a fraction n / d below one, undone bit for bit by what the product lost.

v * n / d is no bijection: log2(d / n) bits of v are lost. They go into a number i in mixed radix,
which elements share: push v mod d, multiply v // d by n, and fill up with i mod n, popped. The
bound of i is known without a look at the data, so it is kept in exactly ceil(log2(bound)) bits, and
what exceeds the working word spills in words of 16 bits. (Maclaurin, Duvenaud, Adams,
Gradient-based Hyperparameter Optimization through Reversible Learning, 2015, algorithm 3.)
"""

from __future__ import annotations

import torch

from .. import checks
from ..native import define, underivable

# Above the bound that a push needs, and below int64's: products stay positive numbers.
LARGEST = 2**62
SPILL = 16
WIDEST_PUSH = 2**40  # d ** width
MOST_PUSHES = 64  # into a number by a multiplication
WHOLE = "integers have no gradient."


def shrink(
    v: torch.Tensor, numbers: torch.Tensor, n: int, d: int, bound: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return v * n / d up to n units, the numbers with what that lost, and what spilled of them.

    v is int64 [rounds, width, words]: `rounds` pushes of `width` elements each into `numbers`,
    int64 [words], which are below `bound`, and afterwards below what `shrunk` says. What spilled
    is int16 [spills, words]. Rounds are 1 to 64, d ** width is at most 2 ** 40, or RuntimeError is
    raised.
    """
    return _shrink(v, numbers, n, d, bound)


def unshrink(
    v: torch.Tensor, numbers: torch.Tensor, spilled: torch.Tensor | None, n: int, d: int, bound: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the v and the numbers that `shrink` was given, for what it returned.

    `spilled` is None where nothing did.
    """
    return _unshrink(v, numbers, spilled, n, d, bound)


def shrunk(n: int, d: int, width: int, rounds: int, bound: int) -> tuple[int, int]:
    """Return how many words a multiplication spills, and the bound of the numbers after it."""
    counts, bound = _spills(n**width, d**width, rounds, bound)
    return sum(counts), bound


def _spills(popped: int, pushed: int, rounds: int, bound: int) -> tuple[list[int], int]:
    """Return how often each push has to spill before, and the bound after the last."""
    counts = []
    for _ in range(rounds):
        counts.append(0)
        while bound * pushed > LARGEST:
            bound, counts[-1] = -(-bound // 2**SPILL), counts[-1] + 1
        # The number is whole: its bound is rounded up, some bits a number in all.
        bound = -(-bound * pushed // popped)
    return counts, bound


def _check(op, v, numbers, n, d, bound):
    fits = v.dim() == 3 and 1 <= v.size(0) <= MOST_PUSHES and v.size(1) >= 1
    fits = fits and v.dtype == torch.int64
    wanted = f"int64 [1 to {MOST_PUSHES} rounds, width, words]"
    checks.require(fits, op, "v", wanted, f"{list(v.shape)} of {v.dtype}")
    fits = numbers.shape == v.shape[2:] and numbers.dtype == torch.int64
    got = f"{list(numbers.shape)} of {numbers.dtype}"
    checks.require(fits, op, "numbers", f"int64 [{v.size(2)}]", got)
    same = numbers.device == v.device
    checks.require(same, op, "numbers", "on the device of v", numbers.device)
    checks.require(1 <= n <= d, op, "n", f"1 to d, which is {d}", n)
    checks.require(1 <= bound <= LARGEST, op, "bound", "1 to 2^62", bound)
    fits = d ** v.size(1) <= WIDEST_PUSH
    checks.require(fits, op, "d ** width", "at most 2^40", f"{d} ** {v.size(1)}")


def _shrink_reference(v, numbers, n, d, bound):
    _check("shrink", v, numbers, n, d, bound)
    rounds, width, _ = v.shape
    spilled, parts = [], []
    for part, spills in zip(
        v.unbind(0), _spills(n**width, d**width, rounds, bound)[0], strict=True
    ):
        for _ in range(spills):
            low = (numbers & (2**SPILL - 1)) - 2 ** (SPILL - 1)
            spilled.append(low.to(torch.int16))
            numbers = numbers >> SPILL
        part, numbers = _exchanged(part, numbers, d, n)
        parts.append(part)
    none = numbers.new_empty(0, numbers.shape[0], dtype=torch.int16)
    words = torch.stack(spilled) if spilled else none
    return torch.stack(parts), numbers, words


def _unshrink_reference(v, numbers, spilled, n, d, bound):
    _check("unshrink", v, numbers, n, d, bound)
    rounds, width, _ = v.shape
    size = [shrunk(n, d, width, rounds, bound)[0], v.size(2)]
    if spilled is None and 0 in size:
        spilled = v.new_empty(size, dtype=torch.int16)
    fits = spilled is not None and list(spilled.shape) == size and spilled.dtype == torch.int16
    got = "None" if spilled is None else f"{list(spilled.shape)} of {spilled.dtype}"
    checks.require(fits, "unshrink", "spilled", f"int16 {size}, or None for none", got)
    words, parts = list(spilled.unbind(0)), []
    counts = _spills(n**width, d**width, rounds, bound)[0]
    for part, spills in zip(reversed(v.unbind(0)), reversed(counts), strict=True):
        part, numbers = _exchanged(part, numbers, n, d)
        parts.append(part)
        for _ in range(spills):
            low = words.pop().to(torch.int64) + 2 ** (SPILL - 1)
            numbers = (numbers << SPILL) | low
    return torch.stack(parts[::-1]), numbers


def _shrink_fake(v, numbers, n, d, bound):
    spills, _ = shrunk(n, d, v.shape[1], v.shape[0], bound)
    words = numbers.new_empty(spills, numbers.shape[0], dtype=torch.int16)
    return v.new_empty(v.shape), numbers.new_empty(numbers.shape), words


def _unshrink_fake(v, numbers, spilled, n, d, bound):
    return v.new_empty(v.shape), numbers.new_empty(numbers.shape)


def _exchanged(v, numbers, taken, given):
    """Push v mod `taken`, and fill v // taken * given up with digits popped in base `given`."""
    width = len(v)
    whole = v.div(taken, rounding_mode="floor")
    numbers = numbers * taken**width + _joined(v - whole * taken, taken)
    radix = given**width
    rest = numbers // radix
    return whole * given + _digits(numbers - rest * radix, given, width), rest


def _powers(base, width, device):
    # Made on the device: a copy from the host would wait for it.
    return torch.pow(base, torch.arange(width, device=device)).unsqueeze(1)


def _joined(digits, base):
    return (digits * _powers(base, len(digits), digits.device)).sum(0)


def _digits(joined, base, width):
    quotients = joined.unsqueeze(0) // _powers(base, width, joined.device)
    next_ones = torch.nn.functional.pad(quotients[1:], (0, 0, 0, 1))
    return quotients - next_ones * base


_shrink, _unshrink = (
    define(name, reference=reference, fake=fake, derivative=underivable(name, WHOLE))
    for name, reference, fake in (
        ("shrink", _shrink_reference, _shrink_fake),
        ("unshrink", _unshrink_reference, _unshrink_fake),
    )
)
