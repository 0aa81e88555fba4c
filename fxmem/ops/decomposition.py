"""The operators in ATen that Inductor can fuse with what comes before and after.

Same signatures as the operators; sizes and strides may be symbolic. As in every decomposition
table, NotImplemented declines: for a size not known to be a multiple of the group, where the
operator is right as it is and a tail would cost kernels of its own. Results equal the kernels' bit
for bit on the CPU; Triton may divide and contract differently in the last place, which stays within
the stated bound. bf16 rounding is done on integers, because compilers drop a cast down followed by
a cast up.
"""

import torch

from . import checks, layout, reference
from .arithmetic import dither

LOW_HALF = -65536  # 0xFFFF0000 as int32


def round_bf16(v: torch.Tensor) -> torch.Tensor:
    """float32 to the nearest bf16 value, ties to even, as float32."""
    bits = v.view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & LOW_HALF).view(torch.float32)


def floor_bf16(v: torch.Tensor) -> torch.Tensor:
    """float32 to the next bf16 value towards minus infinity, at least the lowest finite one."""
    bits = v.view(torch.int32)
    down = ((bits + ((bits >> 31) & 0xFFFF)) & LOW_HALF).view(torch.float32)
    return down.clamp(min=-reference.BF16_MAX)


def _declines(bits: int, group: int, n: int) -> bool:
    whole = layout.known_int(n % group) == 0 and layout.known_int(n) != 0
    return reference.is_stream(bits) or not whole


def encode(x, bits, group, seed=None):
    """fxmem::encode."""
    checks.encode(x, bits, group, seed)
    n = x.numel()
    if _declines(bits, group, n):
        return NotImplemented
    parts, length = 8 // bits, group * bits // 8
    planes = layout.flatten(x).view(n // group, parts, length).to(torch.float32).unbind(1)
    low, high = planes[0], planes[0]
    for plane in planes[1:]:
        low, high = torch.minimum(low, plane), torch.maximum(high, plane)
    step, zero = reference.group_scale(
        low.amin(1, keepdim=True),
        high.amax(1, keepdim=True),
        bits,
        seed is not None,
        round_bf16,
        floor_bf16,
    )
    packed = None
    for part, plane in enumerate(planes):
        noise = None
        if seed is not None:
            first = torch.arange(n // group, device=x.device)[:, None] * group + part * length
            noise = dither(seed, first + torch.arange(length, device=x.device))
        code = reference.encode_values(plane, step, zero, bits, noise)
        if bits == 8:
            return code.to(torch.int8).view(-1), step.to(torch.bfloat16).view(-1)
        code = code.to(torch.uint8) << (bits * part)
        packed = code if packed is None else packed | code
    column = torch.arange(2, device=x.device)
    scales = torch.where(column == 0, step, zero).to(torch.bfloat16)
    return packed.view(-1), scales


def decode(codes, scales, size, stride, bits, group, dtype):
    """fxmem::decode."""
    n = layout.count(size)
    if _declines(bits, group, n):
        return NotImplemented
    length = group * bits // 8
    if bits == 8:
        value = codes.view(n // group, group).to(torch.float32) * scales.to(torch.float32)[:, None]
    else:
        shift = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)[:, None]
        code = (codes.view(n // group, 1, length) >> shift) & (2**bits - 1)
        step, zero = scales.to(torch.float32).view(n // group, 2, 1, 1).unbind(1)
        value = zero + code.to(torch.float32) * step
    largest = torch.finfo(dtype).max
    return layout.unflatten(value.clamp(-largest, largest).to(dtype).view(-1), size, stride)


def pack(x, bits):
    """fxmem::pack."""
    checks.pack(x, bits)
    n = x.numel()
    flat = torch.constant_pad_nd(layout.flatten(x).to(torch.uint8), [0, -n % 8])
    # Eight elements meet in one word of `bits` bytes.
    kind = torch.int32 if bits <= 3 else torch.int64
    place = torch.arange(0, 8 * bits, bits, dtype=kind, device=x.device)
    word = ((flat.view(-1, 8).to(kind) & (2**bits - 1)) << place).sum(1, keepdim=True, dtype=kind)
    octet = torch.arange(0, 8 * bits, 8, dtype=kind, device=x.device)
    stream = ((word >> octet) & 255).to(torch.uint8).view(-1)
    return stream[: (n * bits + 7) // 8]


def unpack(packed, size, stride, bits, dtype):
    """fxmem::unpack."""
    n = layout.count(size)
    stream = torch.constant_pad_nd(packed, [0, (n + 7) // 8 * bits - (n * bits + 7) // 8])
    kind = torch.int32 if bits <= 3 else torch.int64
    octet = torch.arange(0, 8 * bits, 8, dtype=kind, device=packed.device)
    word = (stream.view(-1, bits).to(kind) << octet).sum(1, keepdim=True, dtype=kind)
    place = torch.arange(0, 8 * bits, bits, dtype=kind, device=packed.device)
    values = ((word >> place) & (2**bits - 1)).to(dtype).view(-1)
    return layout.unflatten(values[:n], size, stride)


DECOMPOSITIONS = {
    torch.ops.fxmem.encode.default: encode,
    torch.ops.fxmem.decode.default: decode,
    torch.ops.fxmem.pack.default: pack,
    torch.ops.fxmem.unpack.default: unpack,
}
