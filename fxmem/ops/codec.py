"""The group codec: a floating tensor in 2 to 8 bits an element, and a scale for each group.

A group is 32, 64, 128 or 256 consecutive elements in memory order; the last may be short. 8 bits
are symmetric, x ~ code * step; below, x ~ zero + code * step. step and zero are bf16. In a group
with an infinity or a NaN the step is NaN, and all of the group decodes to NaN.
"""

import torch

from . import checks, reference
from .layout import Ints
from .native import define


def _encode_fake(x, bits, group, seed=None):
    checks.encode(x, bits, group, seed)
    n = x.numel()
    groups = (n + group - 1) // group
    kind = torch.int8 if bits == 8 else torch.uint8
    scales = [groups] if bits == 8 else [groups, 2]
    return (
        x.new_empty([(n * bits + 7) // 8], dtype=kind),
        x.new_empty(scales, dtype=torch.bfloat16),
    )


def _decode_fake(codes, scales, size, stride, bits, group, dtype):
    checks.codec("decode", bits, group)
    return codes.new_empty_strided(size, stride, dtype=dtype)


_encode = define("encode", reference=reference.encode, fake=_encode_fake)
_decode = define("decode", reference=reference.decode, fake=_decode_fake)


def encode(
    x: torch.Tensor, bits: int, group: int = 64, seed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode `x` (float32, bfloat16 or float16; any size and strides) in `bits` an element.

    Returns codes, int8 [n] for 8 bits and uint8 [ceil(bits * n / 8)] below, and bf16 scales, the
    step [groups] or the pairs (step, zero) [groups, 2]. With `seed`, an int64 tensor of one element
    on x's device, rounding is stochastic and the expectation of what decodes is x, up to
    2^-17 of a step. `error_bound` says how far one element can be off. With 4 or 2 bits,
    byte j of a group of m elements holds its elements j, j + h, ..., lowest bits first, where
    h = ceil(m * bits / 8); with 3, 5, 6 or 7 a group is a bit stream like that of `pack`. Raises
    RuntimeError for other bits, groups, dtypes and devices.
    """
    return _encode(x, bits, group, seed)


def decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    size: Ints,
    stride: Ints,
    bits: int,
    group: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Decode what `encode` made into a fresh tensor of this size, dense strides and dtype.

    `memory_stride(x)` gives the strides for what was encoded from x. Finite data decode to finite
    values of `dtype`. Raises RuntimeError where codes, scales or strides do not fit the size.
    """
    return _decode(codes, scales, size, stride, bits, group, dtype)


def encoded_bytes(numel: int, bits: int, group: int = 64) -> int:
    """The bytes of codes and scales together for `numel` elements."""
    return -(-numel * bits // 8) + -(-numel // group) * (2 if bits == 8 else 4)


def error_bound(
    scales: torch.Tensor, bits: int, *, stochastic: bool = False, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The largest |decoded - x| in each group, float32 [groups], for x of the decoded dtype.

    Half a step (a whole one for stochastic rounding), and the rounding of float32 arithmetic and of
    `dtype` at the group's largest magnitude. NaN where the group decodes to NaN.
    """
    step, zero = (scales.float(), 0.0) if bits == 8 else scales.float().unbind(1)
    magnitude = (step * 2.0**bits if bits < 8 else step * 128) + abs(zero)
    # Below the smallest normal step all of a group becomes its zero point.
    quantised = torch.where(step == 0, 2.0 ** (bits - 126), step * (1.0 if stochastic else 0.5))
    kind = torch.finfo(dtype)
    return quantised + magnitude * (2.0**-20 + kind.eps / 2) + kind.tiny * kind.eps / 2
