"""What a binary layer wants of its input, in one pass over memory: signs, mask and magnitude."""

import torch

from .. import checks
from ..masks import pack
from ..native import define, underivable


def _check(x: torch.Tensor) -> None:
    matrix = x.dim() == 2 and x.dtype in (torch.float32, torch.float64)
    got = f"{x.dim()} dimensions of {x.dtype}"
    checks.require(matrix, "signs", "x", "a float32 or float64 matrix", got)


def _reference(x):
    _check(x)
    size = x.contiguous().abs()
    # In float64, where equal float32 magnitudes have exactly themselves as their mean.
    magnitude = size.mean(1, dtype=torch.float64).to(x.dtype)
    magnitude = magnitude if x.size(1) else x.new_zeros(x.size(0))
    return pack(x.contiguous() >= 0), pack(size <= 1), magnitude


def _fake(x):
    _check(x)
    bits = x.new_empty([(x.numel() + 7) // 8], dtype=torch.uint8)
    return bits, torch.empty_like(bits), x.new_empty([x.size(0)])


_signs = define(
    "signs",
    reference=_reference,
    fake=_fake,
    derivative=underivable("signs", "its outputs are constants of a binary layer's gradient"),
)


def signs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x >= 0 and |x| <= 1 as streams of one bit, uint8 [ceil(m n / 8)], and the mean |x|.

    x is a float32 or float64 matrix [m, n]; the means are its rows', [m] of x's dtype, 0 of rows
    without elements. A NaN is neither. Raises RuntimeError for what does not fit.
    """
    return _signs(x)
