"""The operators in plain torch: slow, and the truth that every kernel is compared with."""

import math

import torch

from . import checks, layout

HEADROOM = 1.00391  # 1 + 2^-8 and a little: scaled by it, then rounded to bf16, nothing shrinks
BF16_MAX = torch.finfo(torch.bfloat16).max
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def round_bf16(v: torch.Tensor) -> torch.Tensor:
    """float32 to the nearest bf16 value, as float32."""
    return v.to(torch.bfloat16).to(torch.float32)


def floor_bf16(v: torch.Tensor) -> torch.Tensor:
    """float32 to the next bf16 value towards minus infinity, at least the lowest finite one."""
    near = v.to(torch.bfloat16)
    below = torch.nextafter(near, torch.full_like(near, -math.inf))
    return torch.where(near.float() > v, below, near).float().clamp(min=-BF16_MAX)


def group_scale(low, high, bits, stochastic, round_bf16=round_bf16, floor_bf16=floor_bf16):
    """The step and the zero point of groups with these smallest and largest elements.

    All float32 of one shape. 8 bits: the zero point is 0. Below, to nearest, both ends of the group
    may lie half a step outside the levels, unless its minimum is zero, which stays exact.
    """
    if bits == 8:
        largest = torch.maximum(high, -low)
        zero = torch.zeros_like(low)
        step = round_bf16(largest * ((HEADROOM if stochastic else 1.0) / 127))
    else:
        top = 2**bits - 1
        inside = low + (high * 0.5 - low * 0.5) * (1 / (top + 1))
        zero = floor_bf16(low if stochastic else torch.where(low == 0, low, inside))
        above = (high * 0.5 - zero * 0.5) * (2 / (top if stochastic else top + 0.5))
        step = round_bf16(torch.maximum(above, (zero - low) * 2) * HEADROOM)
    step = torch.where(step < SMALLEST_NORMAL, 0.0, step)
    finite = (low > -math.inf) & (high < math.inf)
    return torch.where(finite, step, math.nan), torch.where(finite, zero, math.nan)


def encode_values(v, step, zero, bits, dither=None):
    """Codes, as float32, of values [groups, any]; step and zero [groups, 1]."""
    bottom, top = (-127, 127) if bits == 8 else (0, 2**bits - 1)
    inverse = torch.where(step > 0, 1 / step, 0.0)
    level = v * inverse if bits == 8 else v * inverse - zero * inverse
    code = level.round() if dither is None else (level + dither).round()
    return code.clamp(bottom, top)


def _mix(h):
    h = (h ^ (h >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    h = (h ^ (h >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return h ^ (h >> 16)


def uniform(seed: int, count: int) -> torch.Tensor:
    """The first elements of the seed's random stream, uniform in (0, 1), float32 [count]."""
    return dither(seed, torch.arange(count)) + 0.5


def dither(seed: int, index: torch.Tensor) -> torch.Tensor:
    """Elements of the seed's random stream, uniform in (-1/2, 1/2), float32.

    They are the middles of 2^16 intervals. Elements 16 apart in a block of 32 share one hash.
    """
    position = index & 0xFFFFFFFF
    bits = draw(seed, index - position + ((position >> 5 << 4) | (position & 15)))
    half = torch.where(index & 16 != 0, bits >> 16, bits) & 0xFFFF
    return half.float() * 2.0**-16 - (0.5 - 2.0**-17)


def draw(seed: int, index: torch.Tensor) -> torch.Tensor:
    """The numbers at these places of the seed's random stream: 32 bits each, as int64."""
    seed &= 2**64 - 1
    low, high = seed & 0xFFFFFFFF ^ _mix(index >> 32), seed >> 32
    key = _mix(_mix(low ^ 0x9E3779B9) + high & 0xFFFFFFFF)
    second = _mix(_mix(high ^ 0x85EBCA6B) + low & 0xFFFFFFFF)
    h = index & 0xFFFFFFFF ^ key
    h = (h ^ (h >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) + second) * 0x846CA68B & 0xFFFFFFFF
    return h ^ (h >> 16)


def is_stream(bits: int) -> bool:
    """Whether codes of this width do not fit a byte evenly, and so are kept as a bit stream."""
    return 8 % bits != 0


def _encode_groups(v, bits, noise):
    step, zero = group_scale(v.amin(1), v.amax(1), bits, noise is not None)
    codes = encode_values(v, step[:, None], zero[:, None], bits, noise)
    codes = codes.nan_to_num(0.0)
    if bits == 8:
        return codes.to(torch.int8).flatten(), step.to(torch.bfloat16)
    scales = torch.stack([step, zero], 1).to(torch.bfloat16)
    if is_stream(bits):
        return pack(codes.to(torch.uint8), bits), scales
    parts = 8 // bits
    length = -(-v.size(1) // parts)
    codes = torch.nn.functional.pad(codes, (0, parts * length - v.size(1)))
    planes = codes.to(torch.uint8).view(-1, parts, length)
    packed = sum(planes[:, part] << (bits * part) for part in range(parts))
    return packed.to(torch.uint8).flatten(), scales


def encode(x, bits, group, seed=None):
    """fxmem::encode; fxmem.ops.encode says what it does."""
    checks.encode(x, bits, group, seed)
    flat = layout.flatten(x).float()
    n = flat.numel()
    noise = None if seed is None else dither(int(seed), torch.arange(n)).to(x.device)
    full = n - n % group
    codes, scales = [], []
    for part, width in (slice(0, full), group), (slice(full, n), n % group):
        if part.stop > part.start:
            added = None if noise is None else noise[part].view(-1, width)
            code, scale = _encode_groups(flat[part].view(-1, width), bits, added)
            codes.append(code)
            scales.append(scale)
    if not codes:
        empty = x.new_empty(0, dtype=torch.int8 if bits == 8 else torch.uint8)
        scale = x.new_empty(0 if bits == 8 else (0, 2), dtype=torch.bfloat16)
        return empty, scale
    return torch.cat(codes), torch.cat(scales)


def _decode_groups(codes, scales, bits, count, largest):
    step, zero = (scales, None) if bits == 8 else scales.unbind(1)
    if bits == 8:
        value = codes.float() * step[:, None]
    elif is_stream(bits):
        size = (codes.size(0), count)
        code = unpack(codes.flatten(), size, layout.contiguous_stride(size), bits, torch.uint8)
        value = zero[:, None] + code.float() * step[:, None]
    else:
        mask = 2**bits - 1
        planes = [codes >> (bits * part) & mask for part in range(8 // bits)]
        value = zero[:, None] + torch.cat(planes, 1)[:, :count].float() * step[:, None]
    return value.clamp(-largest, largest).flatten()


def _lay_out(flat, size, stride):
    return flat.new_empty_strided(size, stride).copy_(layout.unflatten(flat, size, stride))


def decode(codes, scales, size, stride, bits, group, dtype):
    """fxmem::decode; fxmem.ops.decode says what it does."""
    checks.decode(codes, scales, size, stride, bits, group, dtype)
    n = math.prod(size)
    full = n // group
    bytes_full = full * group * bits // 8
    largest = torch.finfo(dtype).max
    main = codes[:bytes_full].view(full, group * bits // 8)
    values = [_decode_groups(main, scales[:full].float(), bits, group, largest)]
    if n % group:
        tail = codes[bytes_full:].view(1, -1)
        values.append(_decode_groups(tail, scales[full:].float(), bits, n % group, largest))
    return _lay_out(torch.cat(values).to(dtype), size, stride)


def pack(x, bits):
    """fxmem::pack; fxmem.ops.pack says what it does."""
    checks.pack(x, bits)
    flat = layout.flatten(x).to(torch.uint8)
    stream = (flat[:, None] >> torch.arange(bits, device=x.device) & 1).flatten()
    octets = torch.nn.functional.pad(stream, (0, -stream.numel() % 8)).view(-1, 8)
    return (octets << torch.arange(8, device=x.device)).sum(1).to(torch.uint8)


def unpack(packed, size, stride, bits, dtype):
    """fxmem::unpack; fxmem.ops.unpack says what it does."""
    checks.unpack(packed, size, stride, bits, dtype)
    n = math.prod(size)
    stream = (packed[:, None] >> torch.arange(8, device=packed.device) & 1).flatten()
    elements = stream[: n * bits].view(n, bits)
    values = (elements << torch.arange(bits, device=packed.device)).sum(1)
    return _lay_out(values.to(dtype), size, stride)
