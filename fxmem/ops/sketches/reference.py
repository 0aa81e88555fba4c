"""The sketching operators in plain torch: slow, and what the kernels are compared with.

fxmem.ops.sketch says what S is. Its numbers come from the seed's stream (reference.draw), so that
the backward finds them again: of output row t, input column q within its block and the block b,
W = the longest block rounded up to 32,

    gaussian    numbers t * W + 2p and the next make columns q and q + 16, where p counts such pairs
    rademacher  bit q % 32 of number t * W / 32 + q / 32
    the others  signs of columns from SIGNS + b * W / 32 on, in bits; sampled rows from ROWS + t on
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..reference import draw
from . import checks

BLOCK = 256  # rows of x that are mixed with each other: what a dense S costs grows with them
SIGNS, ROWS = 1 << 40, 2 << 40


class Block(NamedTuple):
    """Rows [first, last) of x become rows [top, bottom) of its sketch; `width` is W."""

    number: int
    first: int
    last: int
    top: int
    bottom: int
    width: int

    @property
    def n(self) -> int:
        """How many rows of x these are."""
        return self.last - self.first

    @property
    def k(self) -> int:
        """How many rows of the sketch these are."""
        return self.bottom - self.top


def blocks(n: int, rows: int) -> Iterator[Block]:
    """Divide n rows of x, and `rows` of its sketch, as evenly as can be."""
    count = max(1, min(n // BLOCK, rows))
    width = -(-n // count) + 31 & ~31
    for b in range(count):
        ends = (n * b // count, n * (b + 1) // count, rows * b // count, rows * (b + 1) // count)
        yield Block(b, *ends, width)


def sketch(x, kind, rows, seed):
    """fxmem::sketch; fxmem.ops.sketch says what it does."""
    checks.sketch(x, kind, rows, seed)
    if x.numel() == 0:
        return x.new_zeros(rows, x.size(1))
    wide = x if x.dtype == torch.float64 else x.float()
    parts = [_product(kind, block, int(seed), wide) for block in blocks(x.size(0), rows)]
    return torch.cat(parts).to(x.dtype)


def _product(kind: str, block: Block, seed: int, x: torch.Tensor) -> torch.Tensor:
    own = x[block.first : block.last]
    if kind == "crs":  # gathered: in a product, zero times infinity would be NaN
        places = sampled(block, block.n, seed).to(x.device)
        return own[places] * math.sqrt(block.n / block.k)
    return matrix(kind, block, seed).to(x) @ own


def matrix(kind: str, block: Block, seed: int) -> torch.Tensor:
    """A block of S, float64 [k, n]."""
    if kind in ("gaussian", "rademacher"):
        entries = _gaussian if kind == "gaussian" else _rademacher
        return entries(block, seed) / math.sqrt(block.k)
    if kind == "crs":
        size = block.n
        rows = torch.eye(size, dtype=torch.float64)[sampled(block, size, seed)]
    else:
        size = 1 << (block.n - 1).bit_length() if kind == "hadamard" else block.n
        rows = BASES[kind](sampled(block, size, seed), size)[:, : block.n] * _signs(block, seed)
    return rows * math.sqrt(size / block.k)


def sampled(block: Block, size: int, seed: int) -> torch.Tensor:
    """One row of `size` drawn from each of k equal strata: each is expected k / size times."""
    t = torch.arange(block.k)
    place = (t << 32) + draw(seed, ROWS + block.top + t)
    return place * size // block.k >> 32


def _gaussian(block: Block, seed: int) -> torch.Tensor:
    # Box and Muller: one length and one angle make two independent normal numbers.
    t, q = torch.arange(block.top, block.bottom)[:, None], torch.arange(block.n)
    number = t * block.width + 2 * ((q >> 5 << 4) | (q & 15))
    uniform = ((draw(seed, number) >> 9).double() + 0.5) * 2.0**-23
    angle = draw(seed, number + 1).double() * (math.pi * 2.0**-31)
    length = (-2 * uniform.log()).sqrt()
    return length * torch.where(q & 16 == 0, angle.cos(), angle.sin())


def _rademacher(block: Block, seed: int) -> torch.Tensor:
    t, q = torch.arange(block.top, block.bottom)[:, None], torch.arange(block.n)
    return _sign(draw(seed, t * (block.width // 32) + (q >> 5)), q)


def _signs(block: Block, seed: int) -> torch.Tensor:
    q = torch.arange(block.n)
    return _sign(draw(seed, SIGNS + block.number * (block.width // 32) + (q >> 5)), q)


def _sign(bits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return 1 - 2 * (bits >> (q & 31) & 1).double()


def _hadamard(rows: torch.Tensor, size: int) -> torch.Tensor:
    common = rows[:, None] & torch.arange(size)
    for shift in (16, 8, 4, 2, 1):
        common = common ^ common >> shift
    return (1 - 2 * (common & 1).double()) / math.sqrt(size)


def _dct(rows: torch.Tensor, size: int) -> torch.Tensor:
    phase = (2 * torch.arange(size) + 1) * rows[:, None] % (4 * size)
    length = torch.where(rows == 0, 1.0, 2.0).double().div(size).sqrt()
    return length[:, None] * (phase.double() * (math.pi / 2 / size)).cos()


def _dft(rows: torch.Tensor, size: int) -> torch.Tensor:
    # The real Fourier basis: a constant, then a cosine and a sine of each frequency.
    angle = (torch.arange(size) * ((rows + 1) // 2)[:, None] % size).double() * (2 * math.pi / size)
    single = (rows == 0) | (2 * rows == 2 * size - 2) & (size % 2 == 0)
    length = torch.where(single, 1.0, 2.0).double().div(size).sqrt()
    is_cosine = (rows % 2 == 1) | (rows == 0)
    return length[:, None] * torch.where(is_cosine[:, None], angle.cos(), angle.sin())


BASES = {"hadamard": _hadamard, "dct": _dct, "dft": _dft}


def sample(x, rows, seed):
    """fxmem::sample; fxmem.ops.sample says what it does."""
    checks.sample(x, rows, seed)
    if x.size(0) == 0:
        return x.new_zeros(0, x.size(1)), seed.new_zeros(0)
    # Any weights do that are drawn by and divided by alike: only their sums must be precise.
    kind = x.dtype if x.dtype == torch.float64 else torch.float32
    norms = torch.linalg.vector_norm(x, dim=1, dtype=kind).double()
    # Of equal weights, where all are zero: any row will do.
    norms = torch.where(norms.sum() == 0, torch.ones_like(norms), norms)
    ends = norms.cumsum(0)
    share = (torch.arange(rows, device=x.device) + _uniform(rows, seed)) / rows
    places = torch.searchsorted(ends, share * ends[-1:], right=True).clamp_(max=x.size(0) - 1)
    scale = ends[-1:] / (rows * norms[places])
    return (x[places] * scale[:, None].to(kind)).to(x.dtype), places


def _uniform(rows: int, seed: torch.Tensor) -> torch.Tensor:
    """Independent numbers from 0 to 1, float64 [rows], in a few kernels and without a sync.

    As many rows of S as it has columns have the variance 1 / columns: S 1 is normal.
    """
    ones = torch.ones(rows, 1, device=seed.device)
    normal = torch.ops.fxmem.sketch.default(ones, "gaussian", rows, seed)
    return torch.special.ndtr(normal[:, 0].double())
