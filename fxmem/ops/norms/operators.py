"""Normalisations that keep their output for the backward, not their input.

y = x_hat * weight + bias determines x_hat where the weight is not small beside the bias; of the
other channels x_hat itself is kept (see `channels`). The layer that follows keeps y anyway.
After Rota Bulò et al., In-Place Activated BatchNorm (arXiv 1712.02616), which bounds |weight|.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..autocast import autocast_dtype
from ..eager import is_differentiated, overridable
from ..second import undifferentiable
from . import channels
from .gradient import gradients
from .kinds import BatchNorm, GroupNorm, LayerNorm, Norm, RMSNorm

Shape = list[int] | tuple[int, ...] | torch.Size
SECOND = (
    "the gradient of a norm kept as its output has no derivative: what a second one needs is not "
    "kept. Use torch's norm, or keep='input', where gradients are differentiated again."
)

OVERWRITTEN = (
    "a norm keeps its output for the backward, and that has been modified by an inplace operation "
    "that follows: say inplace=False there, as in ReLU(inplace=False), or let this norm keep its "
    "input; fxmem.transform leaves such norms as they are"
)


@overridable
def layer_norm(
    input: torch.Tensor,
    normalized_shape: Shape,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.layer_norm, keeping its output.

    Args:
        input: float32, bfloat16, float16 or float64 [*, *normalized_shape].
        weight, bias: [*normalized_shape].

    Raises:
        RuntimeError: for shapes that do not fit, and if gradients are differentiated again.
    """
    if not is_ours(input, weight, bias):
        return torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
    return _FromOutput.apply(input, weight, bias, LayerNorm(eps, tuple(normalized_shape)))


@overridable
def rms_norm(
    input: torch.Tensor,
    normalized_shape: Shape,
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """torch.nn.functional.rms_norm, keeping its output.

    Args:
        input: float32, bfloat16, float16 or float64 [*, *normalized_shape].
        weight: [*normalized_shape].
        eps: of the input's dtype if not given.

    Raises:
        RuntimeError: for shapes that do not fit, and if gradients are differentiated again.
    """
    shape = tuple(normalized_shape)
    fits = input.shape[-len(shape) :] == shape and fit(shape, weight)
    if not fits or not is_ours(input, weight):
        if weight is not None and weight.dtype != input.dtype:  # of which torch's function warns
            return torch.ops.aten._fused_rms_norm(input, normalized_shape, weight, eps)[0]
        return torch.nn.functional.rms_norm(input, normalized_shape, weight, eps)
    return _FromOutput.apply(input, weight, None, RMSNorm(eps, shape))


@overridable
def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.group_norm, keeping its output.

    Args:
        input: float32, bfloat16, float16 or float64 [N, C, *].
        weight, bias: [C].

    Raises:
        RuntimeError: for shapes that do not fit, and if gradients are differentiated again.
    """
    fits = input.numel() and fit(input.shape[1:2], weight, bias)
    if not fits or not is_ours(input, weight, bias):
        return torch.nn.functional.group_norm(input, num_groups, weight, bias, eps)
    return _FromOutput.apply(input, weight, bias, GroupNorm(eps, num_groups))


@overridable
def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: tuple[str, float] = ("identity", 0.0),
) -> torch.Tensor:
    """torch.nn.functional.batch_norm and activation; see `fxmem.functional.batch_norm`."""
    running = (running_mean, running_var)
    norm = BatchNorm(eps, activation, running, training, momentum)
    fits = input.numel() and fit(input.shape[1:2], weight, bias, *running)
    if not fits or not is_differentiated(input, weight, bias):
        rest = (weight, bias, training, momentum, eps)
        return norm.activate(torch.nn.functional.batch_norm(input, *running, *rest))
    if training:
        # torch's own check of sizes, which it makes before it dispatches.
        size = input.size()
        if input.numel() == size[1]:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {size}"
            )
    return _FromOutput.apply(input, weight, bias, norm)


def fit(shape: Shape, *given: torch.Tensor | None) -> bool:
    """Whether what is given has this shape; torch's own function says so where it has not."""
    return all(tensor is None or tuple(tensor.shape) == tuple(shape) for tensor in given)


def is_ours(input: torch.Tensor, *affine: torch.Tensor | None) -> bool:
    """Whether keeping the output can gain anything.

    Where autocast makes norms float32, and linear layers keep their own cast, nothing else keeps
    it.
    """
    return is_differentiated(input, *affine) and autocast_dtype(input.device) is None


class _FromOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        norm: Norm,
    ) -> torch.Tensor:
        y, mean, rstd = norm.forward(input, weight, bias)
        output = norm.activate(y)
        at = channels.kept(*norm.watched(weight, bias, y), y.dtype)
        at = None if at is None or at.numel() == 0 else at
        side = None if at is None else norm.selected(input, mean, rstd, at)
        ctx.save_for_backward(weight, bias, output, rstd, at, side)
        ctx.norm = norm
        return output

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, bias, *kept = _saved(ctx)
        wanted = list(ctx.needs_input_grad[:3])
        given = (grad, ctx.norm, wanted, weight, bias, *kept)
        return *undifferentiable(gradients, SECOND, *given), None


def _saved(ctx) -> tuple[torch.Tensor | None, ...]:
    """Return what was saved; torch knows which of it was overwritten, but not what to do."""
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if f"output 0 of {_FromOutput.__name__}" in str(error):
            raise RuntimeError(OVERWRITTEN) from error
        raise


FUNCTIONS: dict[str, Callable] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
}
