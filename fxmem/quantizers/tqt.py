"""TQT: quantization whose threshold is a trained power of two.

Jain et al. 2019, "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference
of Deep Neural Networks", arXiv 1903.08066, section 3.
"""

from __future__ import annotations

import math

import torch

from fxmem.ops.eager import is_transformed, returned

from .packed import GRIDS, Packed
from .quantizer import check_bits, refuse_func
from .rounding import largest, power_of_two, widened

WIDEST = 16


def tqt(x: torch.Tensor, log2_t: torch.Tensor, bits: int = 8, signed: bool = True) -> torch.Tensor:
    """clip(round(x / s), n, p) s with s = 2^ceil(log2_t) / 2^(bits - 1), differentiable in both.

    n = -2^(bits - 1) and p = 2^(bits - 1) - 1; if not `signed`, s = 2^ceil(log2_t) / 2^bits, n = 0
    and p = 2^bits - 1. Ties round to even. `log2_t` is one number or broadcasts over x. Gradients:
    of x, 1 where n <= round(x / s) <= p, else 0; of log2_t, s ln 2 times round(x / s) - x / s
    there, n below and p above. Raises ValueError for bits other than 2 to 16, TypeError for a
    log2_t that is no tensor.
    """
    _check(log2_t, bits)
    refuse_func("tqt", x, log2_t)
    if is_transformed():  # as a constant, or by torch.vmap alone
        return _value(x, log2_t, bits, signed)
    return _Tqt.apply(x, log2_t, bits, signed)


def tqt_pack(x: torch.Tensor, log2_t: torch.Tensor, bits: int = 8, signed: bool = True) -> Packed:
    """`tqt` as integers of `bits` an element and the scale s, which stays a power of two."""
    _check(log2_t, bits)
    codes, step = _encode(widened(x.detach()), log2_t.detach(), bits, signed)
    return Packed.of(codes, step, "fixed", bits, signed, x.dtype)


def log2_threshold(x: torch.Tensor, deviations: float | None = None) -> torch.Tensor:
    """Where to start log2_t: at log2 max|x|, or at log2 of so many standard deviations of x.

    0-dimensional, float32 or float64; 0 for the zero tensor.
    """
    wide = widened(x.detach())
    spread = wide.std(correction=0) * deviations if deviations else largest(wide).reshape(())
    return torch.where(spread > 0, spread, 1).log2()


def _check(log2_t: torch.Tensor, bits: int) -> None:
    check_bits("bits", bits, 2, WIDEST)
    if not isinstance(log2_t, torch.Tensor):
        raise TypeError(f"log2_t must be a tensor, as what is trained is; got {log2_t!r}")


def _limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _encode(x, log2_t, bits, signed):
    shift = bits - 1 if signed else bits
    step = power_of_two(log2_t.ceil() - shift).to(x.dtype)
    return (x / step).round_().clamp_(*_limits(bits, signed)), step


def _value(x, log2_t, bits, signed):
    return GRIDS["fixed"](*_encode(widened(x), log2_t, bits, signed), bits).to(x.dtype)


class _Tqt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, log2_t, bits, signed):
        ctx.bits, ctx.signed = bits, signed
        ctx.save_for_backward(x, log2_t)
        return returned(_value(x, log2_t, bits, signed), x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, log2_t = ctx.saved_tensors
        wide = widened(x)
        codes, step = _encode(wide, log2_t, ctx.bits, ctx.signed)
        scaled = wide / step
        inside = scaled.round() == codes
        per_element = torch.where(inside, codes - scaled, codes) * (step * math.log(2))
        of_t = (widened(grad) * per_element).sum_to_size(log2_t.shape).to(log2_t.dtype)
        return torch.where(inside, grad, 0), of_t, None, None
