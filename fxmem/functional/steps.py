"""A piecewise linear activation of the user's, by its slopes; or those slopes for any function.

The codes of the slopes are all that is kept. FewBit declares such an operator without computing it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fxmem import ops
from fxmem.activations.given import table_of
from fxmem.ops.eager import returned
from fxmem.ops.second import never

from .activate import known, numbers

PARITIES = (None, "even", "odd")


class Steps(NamedTuple):
    """Slopes by intervals of t = x - origin, and what makes them one continuous function."""

    origin: float
    borders: tuple[float, ...]
    levels: tuple[float, ...]
    offsets: tuple[float, ...]
    bits: int
    even: bool
    steepest: float


def stepwise(
    input: torch.Tensor,
    borders: Sequence[float],
    levels: Sequence[float],
    parity: str | None = None,
    shift: tuple[float, float] | None = None,
    *,
    function: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The continuous function whose slope is levels[i] where i borders lie below the input.

    It is 0 at 0, or at the shift's origin. Kept are ceil(log2(levels)) bits an element, and the
    gradient is exact.

    Args:
        input: float32, bfloat16, float16 or float64, of any shape and strides.
        borders: ascending, one fewer than levels; or one more, with the ends of the domain, which
            count for nothing.
        levels: at most 256 slopes, with those that parity adds.
        parity: "even" or "odd": borders, none of them negative, and levels then say what the slope
            is on the right of the origin; on the left it is the same, or its negative. An even
            slope needs no bit for the side.
        shift: (x, y): the origin of borders and parity is x, and y is added to every level.
        function: computes the output instead, element by element; its slope is then approximated.

    Raises:
        ValueError: for borders, levels, a parity or a shift that do not fit, and for levels beyond
            float32, or float64 where the input is.
        RuntimeError: if gradients are differentiated again.
    """
    own = numbers(borders), numbers(levels), parity, pair(shift)
    return _Stepwise.apply(input, resolve(*own), function)


def pair(shift: Sequence[float] | None) -> tuple[float, float] | None:
    """A shift as two numbers. Raises ValueError for anything else."""
    try:
        found = numbers(shift)
    except TypeError:  # no sequence
        found = ()
    if found is not None and len(found) != 2:
        raise ValueError(f"shift must be two numbers, (x, y); got {shift!r}")
    return found


def resolve(
    borders: tuple[float, ...],
    levels: tuple[float, ...],
    parity: str | None,
    shift: tuple[float, float] | None,
) -> Steps:
    """The steps of a stepwise function, while torch.compile traces too."""
    if torch.compiler.is_compiling():
        return Steps(*_constant(*known((borders, levels, parity, shift))))
    return steps(borders, levels, parity, shift)


@torch.compiler.assume_constant_result
def _constant(*given) -> tuple:
    return tuple(steps(*given))


@functools.cache
def steps(
    borders: tuple[float, ...],
    levels: tuple[float, ...],
    parity: str | None,
    shift: tuple[float, float] | None,
) -> Steps:
    """Check what a user gives, and lay odd slopes out on both sides."""
    if parity not in PARITIES:
        raise ValueError(f"parity must be 'even', 'odd' or None; got {parity!r}")
    table = table_of(borders, levels)
    edges, slopes = table.borders, table.levels
    if parity and np.any(edges < 0):
        raise ValueError(f"with parity, borders lie right of the origin; got {edges.tolist()}")
    if parity == "odd":
        edges = np.concatenate([-edges[::-1], [0.0], edges])
        slopes = np.concatenate([-slopes[::-1], slopes])
    origin, rise = shift or (0.0, 0.0)
    slopes = slopes + rise
    table_of(edges, slopes)
    bits = max((len(slopes) - 1).bit_length(), 1)
    laid = (edges, slopes, _offsets(edges, slopes))
    laid = (tuple(part.tolist()) for part in laid)
    return Steps(origin, *laid, bits, parity == "even", float(np.abs(slopes).max()))


def _offsets(edges: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """What to add to slope * t on each interval: 0 where t = 0 lies, and no jump at any border."""
    jumps = np.concatenate([[0.0], np.cumsum(-np.diff(slopes) * edges)])
    return jumps - jumps[np.searchsorted(edges, 0.0)]


class _Stepwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input: torch.Tensor, plan: Steps, function: Callable | None) -> torch.Tensor:
        if not input.is_floating_point():
            raise RuntimeError(f"stepwise: input must be floating point; got {input.dtype}")
        t = input.to(torch.promote_types(input.dtype, torch.float32)) - plan.origin
        if plan.steepest > torch.finfo(t.dtype).max:
            raise ValueError(f"stepwise: a level of {plan.steepest:g} is beyond {t.dtype}")
        codes = ops.classify(t, plan.borders, plan.bits, plan.even)
        ctx.save_for_backward(codes)
        ctx.plan, ctx.stride = plan, ops.memory_stride(t)
        output = _piecewise(t, codes, plan) if function is None else function(input)
        if output.shape != input.shape:
            raise ValueError(f"function makes {list(output.shape)} of {list(input.shape)}")
        return returned(output, input.dtype)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        plan = ctx.plan
        backward = torch.ops.fxmem.few_bit_backward
        grad = never("fxmem.functional.stepwise", grad)
        return backward(grad, codes, plan.levels, plan.bits, ctx.stride), None, None


def _piecewise(t: torch.Tensor, codes: torch.Tensor, plan: Steps) -> torch.Tensor:
    layout = (plan.bits, t.size(), ops.memory_stride(t), t.dtype)
    slopes = ops.lookup(codes, plan.levels, *layout)
    offsets = ops.lookup(codes, plan.offsets, *layout)
    offsets = torch.copysign(offsets, t * offsets) if plan.even else offsets
    # A flat piece is flat at infinity too, where slope * t is NaN.
    return torch.where((slopes == 0) & ~t.isnan(), offsets, slopes * t + offsets)
