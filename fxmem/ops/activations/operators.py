"""Activations that keep less for their backward than x: codes of the slope, the output, the gates.

An activation is named as in fxmem.activations.TABLE and has that row's parameters, all of them.
"""

from collections.abc import Sequence

import torch

from ..layout import memory_stride
from ..native import Derivative, define, underivable
from ..second import SECOND, never, once
from . import checks, reference


def _like(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty_strided(x.size(), memory_stride(x))


def _codes(x: torch.Tensor, bits: int) -> torch.Tensor:
    return x.new_empty([(x.numel() * bits + 7) // 8], dtype=torch.uint8)


def _few_bit_fake(x, function, parameters, borders, levels, bits, even=False, seed=None):
    checks.few_bit(x, function, parameters, borders, levels, bits, seed)
    return _like(x), _codes(x, bits)


def _few_bit_backward_fake(grad, codes, levels, bits, stride):
    checks.levels("few_bit_backward", levels, bits)
    return grad.new_empty_strided(grad.size(), stride)


def _few_bit_setup(ctx, inputs, output):
    x, _, _, _, ctx.levels, ctx.bits, _, _ = inputs
    ctx.stride = memory_stride(x)
    ctx.save_for_backward(output[1])


def _few_bit_derive(ctx, grad, _):
    (codes,) = ctx.saved_tensors
    grad = never("fxmem::few_bit", grad)
    slope = _few_bit_backward(grad, codes, ctx.levels, ctx.bits, ctx.stride)
    return slope, None, None, None, None, None, None, None


def _from_output_fake(x, function, parameters):
    branches = checks.branches("from_output", function, parameters)
    checks.floating("from_output", "x", x.dtype)
    return _like(x), _codes(x, branches - 1)


def _from_output_backward_fake(grad, y, branch, function, parameters):
    checks.branches("from_output_backward", function, parameters)
    return _like(y)


def _from_output_setup(ctx, inputs, output):
    _, ctx.function, ctx.parameters = inputs
    ctx.save_for_backward(*output)


def _from_output_derive(ctx, grad, _):
    y, branch = ctx.saved_tensors
    result = _from_output_backward(once(grad), y, branch, ctx.function, ctx.parameters)
    return result, None, None


def _gated_fake(gate, up, function, parameters):
    checks.function("gated", function, parameters)
    checks.alike("gated", "up", up, "gate", gate)
    return _like(gate)


def _gated_backward_fake(grad, gate, up, function, parameters):
    checks.function("gated_backward", function, parameters)
    return _like(gate), _like(gate)


def _gated_setup(ctx, inputs, output):
    gate, up, ctx.function, ctx.parameters = inputs
    ctx.save_for_backward(gate, up)


def _gated_derive(ctx, grad):
    gate, up = ctx.saved_tensors
    return *_gated_backward(once(grad), gate, up, ctx.function, ctx.parameters), None, None


_few_bit = define(
    "few_bit",
    reference=reference.few_bit,
    fake=_few_bit_fake,
    derivative=Derivative(_few_bit_derive, _few_bit_setup),
)
_few_bit_backward = define(
    "few_bit_backward",
    reference=reference.few_bit_backward,
    fake=_few_bit_backward_fake,
    derivative=underivable("few_bit_backward", SECOND),
)
_from_output = define(
    "from_output",
    reference=reference.from_output,
    fake=_from_output_fake,
    derivative=Derivative(_from_output_derive, _from_output_setup),
)
_from_output_backward = define(
    "from_output_backward",
    reference=reference.from_output_backward,
    fake=_from_output_backward_fake,
    derivative=underivable("from_output_backward", SECOND),
)
_gated = define(
    "gated",
    reference=reference.gated,
    fake=_gated_fake,
    derivative=Derivative(_gated_derive, _gated_setup),
)
_gated_backward = define(
    "gated_backward",
    reference=reference.gated_backward,
    fake=_gated_backward_fake,
    derivative=underivable("gated_backward", SECOND),
)


def few_bit(
    x: torch.Tensor,
    function: str,
    parameters: Sequence[float],
    borders: Sequence[float],
    levels: Sequence[float],
    bits: int,
    even: bool = False,
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `function(x)` and codes of its slope, `bits` (1 to 8) an element; x is not kept.

    x is float32, bfloat16, float16 or float64, of any size and strides. The code is how many of the
    len(levels) - 1 ascending `borders` lie below x (below |x| with `even`); of a piecewise linear
    function, which takes no borders, it numbers the slopes in ascending order. The gradient is the
    incoming one times `levels[code]`. With `seed`, an int64 tensor of one element on x's device,
    and no borders, the code is drawn between the two of the ascending levels around the slope, so
    that the slope is its expectation (as far as the levels span it, and to 2^-24). Codes lie as
    `pack` writes them. Raises RuntimeError for what does not fit, and if gradients are
    differentiated again.
    """
    return _few_bit(x, function, parameters, borders, levels, bits, even, seed)


def from_output(
    x: torch.Tensor, function: str, parameters: Sequence[float] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `function(x)` and, if it is not monotone, one bit an element: which branch x lies on.

    The gradient is computed from these two; x is not kept. x is float32, bfloat16, float16 or
    float64, of any size and strides; the bits, uint8 [ceil(n / 8)], lie in memory order, and there
    are none for a monotone function. Raises RuntimeError for a function, or parameters, whose slope
    does not follow from the output, and if gradients are differentiated again.
    """
    return _from_output(x, function, parameters)


def gated(
    gate: torch.Tensor, up: torch.Tensor, function: str, parameters: Sequence[float] = ()
) -> torch.Tensor:
    """Return `function(gate) * up`, keeping the two inputs alone.

    Both are float32, bfloat16, float16 or float64, of one shape, any size and strides. Raises
    RuntimeError for what does not fit, and if gradients are differentiated again.
    """
    return _gated(gate, up, function, parameters)
