"""Symmetric int8 codes of a matrix, a scale a row or a column, in one pass over memory."""

import torch

from .. import checks
from ..arithmetic import dither, divisor
from ..native import define, underivable


def _check(x, factor, by_column: bool, levels: int, seed) -> None:
    matrix = x.dim() == 2 and x.dtype == torch.float32
    got = f"{x.dim()} dimensions of {x.dtype}"
    checks.require(matrix, "absmax", "x", "a float32 matrix", got)
    checks.require(1 <= levels <= 127, "absmax", "levels", "1 to 127", levels)
    if factor is not None:
        wanted, found = x.size(0 if by_column else 1), factor.numel()
        fits = found == wanted if by_column else found > 0 and wanted % found == 0
        each = "row" if by_column else "column or period"
        got = f"{found} of {factor.dtype}"
        right = fits and factor.dtype == torch.float32
        checks.require(right, "absmax", "factor", f"float32, one a {each} of {wanted}", got)
    if seed is not None:
        single = seed.dtype == torch.int64 and seed.numel() == 1
        got = f"{seed.numel()} of {seed.dtype}"
        checks.require(single, "absmax", "seed", "an int64 tensor of one element", got)


def _noise(x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Uniform in (-1/2, 1/2); each row has a stream of its own."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return dither(seed.to(x.device), (rows.unsqueeze(1) << 32) + columns)


def _reference(x, factor, by_column, levels, seed=None):
    _check(x, factor, by_column, levels, seed)
    x = x.contiguous()
    if factor is not None:
        whole = factor.view(-1, 1) if by_column else factor.repeat(x.size(1) // factor.numel())
        x = x * whole
    dim = 0 if by_column else 1
    top = x.abs().amax(dim, True) if x.size(dim) else x.sum(dim, True)
    scale = torch.where(top == 0, 1, top / divisor(top, levels))
    scaled = x / scale
    if seed is not None:
        scaled += _noise(x, seed)
    return scaled.round_().nan_to_num_(0).to(torch.int8), scale


def _fake(x, factor, by_column, levels, seed=None):
    size = (1, x.size(1)) if by_column else (x.size(0), 1)
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(size)


_absmax = define(
    "absmax",
    reference=_reference,
    fake=_fake,
    derivative=underivable("absmax"),
)


def absmax(
    x: torch.Tensor,
    factor: torch.Tensor | None = None,
    by_column: bool = False,
    levels: int = 127,
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return round(x factor / s) as int8 and s = max|x factor| / levels; ties to even.

    x is a float32 matrix. By column `factor` has one number a row and s one a column, [1, n]; else
    `factor` has one a column, or a period of them that is repeated, and s one a row, [m, 1]. s is 1
    of zeros; where there is a NaN or an infinity, NaN or infinite, and such codes are 0. With a
    `seed`, an int64 tensor of one element, a code is rounded up or down so that its expectation is
    right. Raises RuntimeError for what does not fit.
    """
    return _absmax(x, factor, by_column, levels, seed)
