"""Products of int8 matrices, summed in int32, and what they are worth."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass

import torch

# The longest sum of products of two int8 that int32 holds: 2^17 of 2^7 * 2^7 are one too many.
LONGEST = 2**17 - 8
EXACT = 2**10  # and the longest that float32 does: 2^10 of 2^7 * 2^7 are 2^24
ISA = "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"  # in the order in which oneDNN asks for them
WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE")  # of 512 bits, that is
CUDA_ROWS, CUDA_STEP = 17, 8  # what cuBLASLt's int8 product wants at least, and multiples of


@dataclass(frozen=True)
class Term:
    """A matrix (codes + zero) * scale: int8, a number, and one scale or one a row or a column.

    Or one of each group, codes and what scales there are in a dimension in front.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: float = 0.0

    def t(self) -> Term:
        """The transposed matrix, or matrices."""
        scale = self.scale.mT if self.scale.dim() > 1 else self.scale
        return Term(self.codes.mT, scale, self.zero)

    def of_group(self, group: int) -> Term:
        """The matrix of one group, with its scales or those that all have."""
        scale = self.scale[group] if self.scale.dim() == 3 else self.scale
        return Term(self.codes[group], scale, self.zero)


@functools.cache
def sums_int8() -> bool:
    """Whether torch has a fast and a right int8 product on this CPU.

    An x86 without AVX512-VNNI has none: torch's own loop takes 25 times as long as a float32
    product, and oneDNN, where ONEDNN_MAX_CPU_ISA keeps it from that instruction, cuts the sums of
    two products to 16 bits.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    allowed = next((os.environ[name] for name in ISA if os.environ.get(name)), "")
    return torch.cpu._is_vnni_supported() and allowed.upper() not in WITHOUT_VNNI


def _float_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b of int8 in int32, by float32's products of no more terms than that holds exactly."""
    total = a.new_zeros(a.size(0), b.size(1), dtype=torch.int32)
    for start in range(0, a.size(1), EXACT):
        end = start + EXACT
        total += (a[:, start:end].float() @ b[start:end].float()).int()
    return total


def int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b of int8 matrices [m, k] and [k, n], int32; k is at most 131064."""
    if not a.is_cuda:
        if not a.size(1):
            return a.new_zeros(a.size(0), b.size(1), dtype=torch.int32)
        return torch._int_mm(a, b) if sums_int8() else _float_mm(a, b)
    m, n = a.size(0), b.size(1)
    rows, inner = max(CUDA_ROWS - m, 0), -a.size(1) % CUDA_STEP
    pad = torch.nn.functional.pad
    wide = pad(a, (0, inner, 0, rows)) if rows or inner else a
    high = pad(b, (0, -n % CUDA_STEP, 0, inner)) if inner or n % CUDA_STEP else b
    return torch._int_mm(wide.contiguous(), high)[:m, :n]


def _summed(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """a @ b in a floating dtype, in as many pieces as int32 needs."""
    total = int_mm(a[:, :LONGEST], b[:LONGEST]).to(dtype)
    for start in range(LONGEST, a.size(1), LONGEST):
        end = start + LONGEST
        total += int_mm(a[:, start:end], b[start:end])
    return total


def _sums(codes: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """The sums along a dimension: a product with ones is several times as fast as torch's sum."""
    ones = codes.new_ones((codes.size(1), 1) if dim == 1 else (1, codes.size(0)))
    return _summed(codes, ones, dtype) if dim == 1 else _summed(ones, codes, dtype)


def product(a: Term, b: Term, dtype: torch.dtype) -> torch.Tensor:
    """The matrix product in a floating dtype; a's scale is one or one a row, b's one a column.

    The integers are exact; the result is rounded where they exceed dtype's mantissa, and by the
    scales where those are not powers of two. Zeros other than 0 cost a sum of the other's codes.
    """
    total = _summed(a.codes, b.codes, dtype)
    if b.zero:
        total += b.zero * _sums(a.codes, 1, dtype)
    if a.zero:
        total += a.zero * (_sums(b.codes, 0, dtype) + b.zero * a.codes.size(1))
    if a.scale.dim() == b.scale.dim() == 0:
        return total.mul_(a.scale * b.scale)
    # An error's scale, which may be huge, is a's: the sum times it alone may be infinite.
    return total.mul_(b.scale).mul_(a.scale)
