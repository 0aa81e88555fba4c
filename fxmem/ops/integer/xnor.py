"""Products of matrices of signs, a bit an element: dot = n - 2 popcount(a xor b).

Courbariaux et al. 2016, arXiv 1602.02830; Rastegari et al. 2016, arXiv 1603.05279.
"""

import torch

from .. import checks
from ..layout import contiguous_stride
from ..masks import pack, unpack
from ..native import define, underivable

WORD = 64  # bits; rows are whole words, filled with zeros, which agree and so count nothing


def pack_rows(signs: torch.Tensor) -> torch.Tensor:
    """Pack bool [..., n], True for +1, into uint8 [..., 8 ceil(n / 64)]: rows of whole words."""
    fill = -signs.size(-1) % WORD
    whole = torch.nn.functional.pad(signs, (0, fill)) if fill else signs
    return pack(whole.contiguous()).view(*whole.shape[:-1], whole.size(-1) // 8)


def unpack_rows(packed: torch.Tensor, n: int) -> torch.Tensor:
    """The inverse of `pack_rows`, bool [..., n]."""
    size = (*packed.shape[:-1], packed.size(-1) * 8)
    return unpack(packed.reshape(-1), size, contiguous_stride(size), 1, torch.bool)[..., :n]


def _check(op: str, a: torch.Tensor, b: torch.Tensor, n: int) -> None:
    for name, it in (("a", a), ("b", b)):
        rows = it.dim() == 2 and it.dtype == torch.uint8 and it.size(1) % 8 == 0
        got = f"{tuple(it.shape)} of {it.dtype}"
        checks.require(rows, op, name, "uint8 rows of whole 8-byte words", got)
    same = a.size(1) == b.size(1)
    checks.require(same, op, "b", f"rows of {a.size(1)} bytes, as a's", b.size(1))
    checks.require(0 <= n <= 8 * a.size(1), op, "n", f"0 to {8 * a.size(1)}", n)


def _check_scaled(a, b, n, left, right) -> None:
    _check("scaled_xnor_mm", a, b, n)
    for name, scale, rows in (("left", left, a.size(0)), ("right", right, b.size(0))):
        fits = scale.numel() == 1 or (scale.dim() == 1 and scale.numel() == rows)
        right_dtype = fits and scale.dtype == torch.float32
        got = f"{scale.numel()} of {scale.dtype}"
        checks.require(right_dtype, "scaled_xnor_mm", name, f"float32, 1 or {rows}", got)


def _reference(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """Sums of ±1 are whole numbers, which float32 counts up to 2^24."""
    _check("xnor_mm", a, b, n)
    bits = 8 * a.size(1)
    dtype = torch.float32 if bits < 2**24 else torch.float64
    left, right = (unpack_rows(it, bits).to(dtype).mul_(2).sub_(1) for it in (a, b))
    return (left @ right.t()).sub_(bits - n).to(torch.int32)


def _fake(a, b, n):
    return a.new_empty(a.size(0), b.size(0), dtype=torch.int32)


def _scaled_reference(a, b, n, left, right):
    _check_scaled(a, b, n, left, right)
    return xnor_mm(a, b, n).float() * left.reshape(-1, 1) * right.reshape(1, -1)


def _scaled_fake(a, b, n, left, right):
    return a.new_empty(a.size(0), b.size(0), dtype=torch.float32)


_xnor_mm = define(
    "xnor_mm",
    reference=_reference,
    fake=_fake,
    derivative=underivable("xnor_mm", "its operands are bits. Use fxmem.integer.linear"),
)

_scaled_xnor_mm = define(
    "scaled_xnor_mm",
    reference=_scaled_reference,
    fake=_scaled_fake,
    derivative=underivable("scaled_xnor_mm", "its operands are bits. Use fxmem.integer.linear"),
)


def xnor_mm(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """The dot products of rows of n signs, packed by `pack_rows`: int32 [a's rows, b's rows].

    A row may be several packed rows behind one another; their bits beyond the n signs are equal in
    a and b, and so do not count. Raises RuntimeError for what does not fit.
    """
    return _xnor_mm(a, b, n)


def scaled_xnor_mm(
    a: torch.Tensor, b: torch.Tensor, n: int, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """`xnor_mm` times scales, float32: `left` has one or one a row of a, `right` the same of b.

    Raises RuntimeError for what does not fit.
    """
    return _scaled_xnor_mm(a, b, n, left, right)
