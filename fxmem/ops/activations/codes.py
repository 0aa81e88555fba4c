"""Codes of intervals: which of 2^k intervals an element lies in, and one level for each."""

from collections.abc import Sequence

import torch

from ..layout import Ints
from ..native import define
from . import checks, reference


def _classify_fake(x, borders, bits, even=False):
    checks.classify("classify", x, borders, bits)
    return x.new_empty([(x.numel() * bits + 7) // 8], dtype=torch.uint8)


def _lookup_fake(codes, levels, bits, size, stride, dtype):
    checks.levels("lookup", levels, bits)
    checks.floating("lookup", "dtype", dtype)
    return codes.new_empty_strided(size, stride, dtype=dtype)


_classify = define("classify", reference=reference.classify, fake=_classify_fake)
_lookup = define("lookup", reference=reference.lookup, fake=_lookup_fake)


def classify(
    x: torch.Tensor, borders: Sequence[float], bits: int, even: bool = False
) -> torch.Tensor:
    """Code each element of `x` by how many of the ascending `borders` lie below it.

    x is float32, bfloat16, float16 or float64, of any size and strides; with `even`, |x| is coded.
    Returns uint8 [ceil(bits * n / 8)]: `bits` (1 to 8) an element in memory order, lowest bit
    first, as `pack` writes them. NaN has code 0. Raises RuntimeError for more than 2^bits - 1
    borders, or if they do not ascend.
    """
    return _classify(x, borders, bits, even)


def lookup(
    codes: torch.Tensor,
    levels: Sequence[float],
    bits: int,
    size: Ints,
    stride: Ints,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return `levels[code]` for codes that `classify` made, of this size, dense strides and dtype.

    `memory_stride(x)` gives the strides for what was coded from x. A code without a level is NaN.
    Raises RuntimeError where levels, codes or strides do not fit.
    """
    return _lookup(codes, levels, bits, size, stride, dtype)
