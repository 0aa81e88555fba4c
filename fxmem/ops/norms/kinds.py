"""What each normalisation computes, and the gradient of a batch norm from its output.

There torch's own backward kernel serves, which is given the output y, and is told that the mean is
the bias and the deviation the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .channels import saturation, underflow

aten = torch.ops.aten
Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Norm:
    """What all normalisations share.

    Attributes:
        centred: whether the mean of what is normalised is taken away.
    """

    eps: float | None
    centred = True

    def channels(self, x: torch.Tensor) -> tuple[int, int]:
        """Return how many channels an input has, and in how many groups they are normalised."""
        raise NotImplementedError

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        """Return what follows the norm and belongs to it."""
        return y

    def watched(
        self, weight: torch.Tensor | None, bias: torch.Tensor | None, y: torch.Tensor
    ) -> Tensors:
        """Return weight and bias as they tell the channels whose x_hat the output lacks.

        Overwrites y, the norm's value before the activation, unless the two are one.
        """
        return weight, bias

    def selected(
        self, x: torch.Tensor, mean: torch.Tensor | None, rstd: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """Return x_hat of the channels `at`, [outer, at, span], in x's dtype."""
        channels, groups = self.channels(x)
        rows = at.div(channels // groups, rounding_mode="floor")
        x_hat = self._picked(x, at).to(torch.promote_types(x.dtype, torch.float32))
        if mean is not None:
            x_hat = x_hat - mean.view(-1, groups).index_select(1, rows).unsqueeze(2)
        return (x_hat * rstd.view(-1, groups).index_select(1, rows).unsqueeze(2)).to(x.dtype)

    def _picked(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return x.index_select(1, at).reshape(len(x), len(at), -1)


@dataclass(frozen=True, eq=False)
class RMSNorm(Norm):
    """Over the last dimensions, without a mean."""

    shape: tuple[int, ...]
    centred = False

    def channels(self, x: torch.Tensor) -> tuple[int, int]:
        return math.prod(self.shape), 1

    def _picked(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return x.flatten(-len(self.shape)).index_select(-1, at).view(-1, len(at), 1)

    def forward(self, x, weight, bias) -> Tensors:
        """Return the output, the mean if there is one, and 1 / deviation."""
        # The output has the input's strides, and channels of several dimensions are to be one.
        x = x.contiguous() if len(self.shape) > 1 else x
        y, rstd = aten._fused_rms_norm(x, self.shape, weight, self.eps)
        return y, None, rstd


@dataclass(frozen=True, eq=False)
class LayerNorm(RMSNorm):
    """Over the last dimensions."""

    centred = True

    def forward(self, x, weight, bias) -> Tensors:
        return aten.native_layer_norm(x, self.shape, weight, bias, self.eps)


@dataclass(frozen=True, eq=False)
class GroupNorm(Norm):
    """Over all but the batch, for groups of channels."""

    groups: int

    def channels(self, x: torch.Tensor) -> tuple[int, int]:
        return x.shape[1], self.groups

    def forward(self, x, weight, bias) -> Tensors:
        sizes = x.shape[0], x.shape[1], x.shape[2:].numel(), self.groups
        return aten.native_group_norm(dense(x, x), weight, bias, *sizes, self.eps)


@dataclass(frozen=True, eq=False)
class BatchNorm(Norm):
    """Over all but the channels, and an activation whose output determines its input."""

    activation: tuple[str, float]
    running: tuple[torch.Tensor | None, torch.Tensor | None]
    training: bool
    momentum: float

    def channels(self, x: torch.Tensor) -> tuple[int, int]:
        return x.shape[1], x.shape[1]

    def forward(self, x, weight, bias) -> Tensors:
        given = (weight, bias, *self.running, self.training, self.momentum, self.eps)
        y, mean, rstd = aten.native_batch_norm(x, *given)
        if self.training:
            return y, mean, rstd
        mean, variance = self.running
        return y, mean, (variance + self.eps).rsqrt()

    def backward(self, grad, y, weight, rstd, wanted, mean, divisor) -> Tensors:
        """Return the gradients of input, weight and bias; x_hat is (y - mean) / divisor.

        Torch's kernel scales by weight / divisor, so that its weight is weight * rstd * divisor.
        It takes the deviation to be positive where it is the root of a running variance.
        """
        scale = rstd if weight is None else rstd * weight
        size = divisor if self.training else divisor.abs()
        running = (mean, divisor.square(), mean, divisor.reciprocal())
        given = (scale * size, *running, self.training, 0.0, wanted)
        found = list(aten.native_batch_norm_backward(dense(grad, y), y, *given))
        if wanted[1] and not self.training:
            found[1] = found[1] * divisor.sign()
        return found

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        return activate(y, self.activation)

    def watched(self, weight, bias, y) -> Tensors:
        name, slope = self.activation
        floor = 0.0 if name == "identity" else underflow(y.dtype, slope)
        if name != "elu" and not floor:
            return weight, bias
        limit = saturation(y) if name == "elu" else y.new_zeros(y.shape[1], dtype=torch.float32)
        limit = limit.clamp_(min=floor) if floor else limit
        weight = torch.ones_like(limit) if weight is None else weight
        return weight, limit if bias is None else torch.maximum(bias.abs(), limit)

    def deactivate(self, grad: torch.Tensor, output: torch.Tensor) -> Tensors:
        """Return the gradient before the activation, and the norm's own output."""
        name, parameter = self.activation
        if name == "identity":
            return grad, output
        z = output.to(torch.promote_types(output.dtype, torch.float32))
        grad = grad.to(z.dtype)
        if name == "leaky_relu":
            y = F.leaky_relu(z, 1 / parameter)
            return aten.leaky_relu_backward(grad, z, parameter, True), y
        # Where elu is rounded to its limit, -parameter, its input is as good as any.
        inside = (z / parameter).clamp(min=torch.finfo(output.dtype).eps / 2 - 1)
        y = torch.where(z > 0, z, inside.log1p())
        return aten.elu_backward(grad, parameter, 1, 1, True, z), y


def activate(y: torch.Tensor, activation: tuple[str, float]) -> torch.Tensor:
    """Return an activation, called by its name and parameter, of y."""
    name, parameter = activation
    if name == "identity":
        return y
    return F.leaky_relu(y, parameter) if name == "leaky_relu" else F.elu(y, parameter)


def dense(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the memory format of another, as the kernels want it."""
    if x.is_contiguous() and like.is_contiguous():
        return x
    return x.contiguous(memory_format=torch._prims_common.suggest_memory_format(like))
