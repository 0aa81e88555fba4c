"""Powers of two and rounding, to the last bit the same on every device."""

import math

import torch

LOWEST, HIGHEST = -126, 127  # the exponents of float32's normal powers of two


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x` in the precision that quantizers compute in: float32, or float64 as it is."""
    if not x.is_floating_point():
        raise TypeError(f"a quantizer takes a floating-point tensor; got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def largest(x: torch.Tensor, keep: int | None = None) -> torch.Tensor:
    """max|x|, or the one of each slice along dimension `keep`, whose sizes stay 1; 0 for no x."""
    dims = [d for d in range(x.dim()) if d != keep]
    if x.numel() == 0:
        return x.new_zeros([x.size(d) if d == keep else 1 for d in range(x.dim())])
    return x.abs().amax(dims, keepdim=True) if dims else x.abs()


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent for whole numbers, float32; clamped to float32's normal numbers, NaN for NaN.

    Made of bits: no library's exp2 or pow need be exact.
    """
    biased = exponent.clamp(LOWEST, HIGHEST).to(torch.int32) + 127
    return torch.where(exponent.isnan(), math.nan, (biased << 23).view(torch.float32))


def magnitude(x: torch.Tensor) -> torch.Tensor:
    """R(x) = 2^round(log2 max|x|), the power of two nearest to x's range, of x's dtype.

    From the exponent and mantissa, so that a logarithm's rounding has no say. It lies in float32's
    normal range; it is 1 for the zero tensor, which so divides without NaN, and NaN where x has a
    NaN or an infinity.
    """
    top = largest(x).reshape(())
    mantissa, exponent = torch.frexp(top)
    down = (mantissa.double() < math.sqrt(0.5)).int()
    power = torch.where(top == 0, 0, exponent - down)
    return torch.where(top.isfinite(), power_of_two(power).to(x.dtype), math.nan)


def uniform(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Numbers in [0, 1) in x's shape, dtype and device, drawn from `generator`."""
    if generator is None:  # an overload for compilers, of any batch size; the numbers are the same
        return torch.rand_like(x, memory_format=torch.contiguous_format)
    return torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def stochastic_round(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Round to a neighbouring whole number, up with the fraction's probability: E = x.

    The magnitude is rounded: only there is the fraction exact, however small x is.
    """
    size = x.abs()
    below = size.floor()
    return torch.copysign(below + (uniform(x, generator) < size - below), x)
