"""Arithmetic in plain torch that is the same to the last bit on every device."""

import torch


def divisor(like: torch.Tensor, number: float) -> torch.Tensor:
    """The number as a tensor, [], of a tensor's dtype and device: what to divide that tensor by.

    By a Python number CUDA does not divide, it multiplies with the reciprocal.
    """
    return like.new_full((), number)


def _int32(constant: int) -> int:
    return constant - 2**32 if constant >= 2**31 else constant


def _shift(h: torch.Tensor, count: int) -> torch.Tensor:
    return (h >> count) & ((1 << (32 - count)) - 1)


def _mix(h: torch.Tensor) -> torch.Tensor:
    h = (h ^ _shift(h, 16)) * 0x7FEB352D
    h = (h ^ _shift(h, 15)) * _int32(0x846CA68B)
    return h ^ _shift(h, 16)


def dither(seed: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """reference.dither on int32: element `index` (int64) of the stream of `seed` (int64 [1])."""
    low = seed.to(torch.int32) ^ _mix((index >> 32).to(torch.int32))
    high = (seed >> 32).to(torch.int32)
    key = _mix(_mix(low ^ _int32(0x9E3779B9)) + high)
    second = _mix(_mix(high ^ _int32(0x85EBCA6B)) + low)
    position = index.to(torch.int32)
    h = ((_shift(position, 5) << 4) | (position & 15)) ^ key
    h = (h ^ _shift(h, 16)) * 0x7FEB352D
    h = ((h ^ _shift(h, 15)) + second) * _int32(0x846CA68B)
    h = h ^ _shift(h, 16)
    half = torch.where((position & 16) != 0, _shift(h, 16), h) & 0xFFFF
    return half.to(torch.float32) * 2.0**-16 - (0.5 - 2.0**-17)
