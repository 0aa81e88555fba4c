"""What the operators refuse, in a sentence: the argument, what was wanted, what came.

The native kernels make the same checks in native/codec.h and native/masks.h.
"""

import math

import torch

from . import layout

BITS = (8, 7, 6, 5, 4, 3, 2)
GROUPS = (32, 64, 128, 256)
FLOATING = (torch.float32, torch.bfloat16, torch.float16)


def require(condition: bool, op: str, argument: str, wanted: str, got: object) -> None:
    """Raise RuntimeError with a sentence unless `condition` holds."""
    if not condition:
        raise RuntimeError(f"fxmem::{op}: {argument} must be {wanted}; got {got}")


def codec(op: str, bits: int, group: int) -> None:
    """Refuse what the group codec cannot do."""
    require(bits in BITS, op, "bits", "2 to 8", bits)
    require(group in GROUPS, op, "group", "32, 64, 128 or 256", group)


def encode(x: torch.Tensor, bits: int, group: int, seed: torch.Tensor | None) -> None:
    """Refuse a bad call of fxmem::encode."""
    codec("encode", bits, group)
    require(x.dtype in FLOATING, "encode", "x", "float32, bfloat16 or float16", x.dtype)
    if seed is not None:
        single = seed.dtype == torch.int64 and seed.numel() == 1
        got = f"{tuple(seed.shape)} of {seed.dtype}"
        require(single, "encode", "seed", "an int64 tensor of one element", got)
        require(seed.device == x.device, "encode", "seed", "on the device of x", seed.device)


def dense(op: str, size: layout.Ints, stride: layout.Ints) -> None:
    """Refuse strides that leave gaps or overlap."""
    fits = len(size) == len(stride) and layout.memory_order(size, stride) is not None
    wanted = f"dense for size {list(size)}, a permutation of a contiguous layout"
    require(fits, op, "stride", wanted, list(stride))


def stream(op: str, name: str, x: torch.Tensor, count: int, dtype: torch.dtype, why: str) -> None:
    """Refuse a buffer of codes that does not have exactly `count` elements of `dtype`."""
    exact = x.dtype == dtype and x.numel() == count and x.is_contiguous()
    got = f"{x.numel()} of {x.dtype}"
    require(exact, op, name, f"{count} contiguous {dtype} for {why}", got)


def decode(codes, scales, size, stride, bits, group, dtype) -> None:
    """Refuse a bad call of fxmem::decode."""
    codec("decode", bits, group)
    require(dtype in FLOATING, "decode", "dtype", "float32, bfloat16 or float16", dtype)
    n = math.prod(size)
    kind = torch.int8 if bits == 8 else torch.uint8
    why = f"size {list(size)}, bits {bits} and group {group}"
    stream("decode", "codes", codes, -(-n * bits // 8), kind, why)
    count = -(-n // group) * (1 if bits == 8 else 2)
    stream("decode", "scales", scales, count, torch.bfloat16, why)
    same = codes.device == scales.device
    require(same, "decode", "scales", "on the device of codes", scales.device)
    dense("decode", size, stride)


def pack(x: torch.Tensor, bits: int) -> None:
    """Refuse a bad call of fxmem::pack."""
    require(1 <= bits <= 8, "pack", "bits", "1 to 8", bits)
    require(x.dtype in (torch.bool, torch.uint8), "pack", "x", "bool or uint8", x.dtype)


def unpack(packed, size, stride, bits, dtype) -> None:
    """Refuse a bad call of fxmem::unpack."""
    require(1 <= bits <= 8, "unpack", "bits", "1 to 8", bits)
    fits = dtype == torch.uint8 or (dtype == torch.bool and bits == 1)
    got = f"{dtype} for bits {bits}"
    require(fits, "unpack", "dtype", "uint8, or bool for one bit", got)
    why = f"size {list(size)} and bits {bits}"
    stream("unpack", "packed", packed, -(-math.prod(size) * bits // 8), torch.uint8, why)
    dense("unpack", size, stride)
