"""What each normalisation computes, and the gradient of it from the normalised input.

Torch's own backward kernels serve. They are told that the mean is 0 and the deviation 1, and are
given x_hat: what they return is the gradient of x but for the factor 1 / deviation. Of a batch norm
they are given the output y, and told that the mean is the bias and the deviation the weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

aten = torch.ops.aten
Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Norm:
    """What all normalisations share.

    Attributes:
        dim: the channels' dimension of `channelled`.
    """

    eps: float | None
    dim = 1

    def rows(self, x: torch.Tensor, trailing: int | None = None) -> torch.Tensor:
        """View a tensor so that its first dimension counts what is normalised separately.

        Its last `trailing` dimensions, by default those of the weight, become one or are channels.
        """
        return x

    def channelled(self, x: torch.Tensor) -> torch.Tensor:
        """View a tensor shaped as the input so that dimension `dim` is the weight's."""
        return x

    def per_channel(self, weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """View a number a channel so that it broadcasts over the rows."""
        return weight.view(-1, *[1] * (like.dim() - 2))

    def broadcast(self, statistic: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """View a mean or deviation so that it broadcasts over the input, or over its rows."""
        return self.per_channel(statistic, like)

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        """Return what follows the norm and belongs to it."""
        return y

    def selected(
        self, x: torch.Tensor, mean: torch.Tensor | None, rstd: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """Return x_hat of the channels `at`, in x's dtype."""
        means = None if mean is None else self._at(mean, x, at)
        x_at = self.channelled(x).index_select(self.dim, at)
        centred = x_at if means is None else x_at - means
        return (centred * self._at(rstd, x, at)).to(x.dtype)

    def _at(self, statistic: torch.Tensor, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        own = self.broadcast(statistic, x).expand(x.shape[0], -1, *[1] * (x.dim() - 2))
        return own.index_select(self.dim, at)


@dataclass(frozen=True, eq=False)
class RMSNorm(Norm):
    """Over the last dimensions, without a mean."""

    shape: tuple[int, ...]
    dim = -1

    def rows(self, x: torch.Tensor, trailing: int | None = None) -> torch.Tensor:
        outer = x.dim() - (len(self.shape) if trailing is None else trailing)
        return (x.flatten(0, outer - 1) if outer else x[None]).flatten(1)

    def channelled(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(-len(self.shape))

    def per_channel(self, weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return weight

    def broadcast(self, statistic: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return statistic

    def _at(self, statistic: torch.Tensor, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return statistic.flatten(-len(self.shape))

    def forward(self, x, weight, bias) -> Tensors:
        """Return the output, the mean if there is one, and 1 / deviation."""
        # The output has the input's strides, and channels of several dimensions are to be one.
        x = x.contiguous() if len(self.shape) > 1 else x
        y, rstd = aten._fused_rms_norm(x, self.shape, weight, self.eps)
        return y, None, rstd

    def backward(self, grad, x_hat, weight, bias, rstd, wanted, out) -> Tensors:
        """Write the gradient of rows to `out`; return those of weight and bias.

        Torch's kernel for this norm is slow on a CPU. That of layer_norm takes the mean of the
        scaled gradient away, which is put back.
        """
        found = _layer_norm_backward(grad, x_hat, weight, bias, wanted)
        if wanted[0]:
            mean = (grad.mean(1) if weight is None else (grad @ weight) / grad.shape[1])[:, None]
            torch.addcmul(mean * rstd, found[0], rstd, out=out)
        return found[1:]


@dataclass(frozen=True, eq=False)
class LayerNorm(RMSNorm):
    """Over the last dimensions."""

    def forward(self, x, weight, bias) -> Tensors:
        return aten.native_layer_norm(x, self.shape, weight, bias, self.eps)

    def backward(self, grad, x_hat, weight, bias, rstd, wanted, out) -> Tensors:
        found = _layer_norm_backward(grad, x_hat, weight, bias, wanted)
        if wanted[0]:
            torch.mul(found[0], rstd, out=out)
        return found[1:]


def _layer_norm_backward(grad, x_hat, weight, bias, wanted) -> Tensors:
    zero, one = x_hat.new_zeros(len(x_hat), 1), x_hat.new_ones(len(x_hat), 1)
    given = (x_hat.shape[1:], zero, one, weight, bias, wanted)
    return list(aten.native_layer_norm_backward(grad, x_hat, *given))


@dataclass(frozen=True, eq=False)
class GroupNorm(Norm):
    """Over all but the batch, for groups of channels."""

    groups: int

    def broadcast(self, statistic: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        repeated = statistic.repeat_interleave(like.shape[1] // self.groups, 1)
        return repeated.view(*like.shape[:2], *[1] * (like.dim() - 2))

    def forward(self, x, weight, bias) -> Tensors:
        return aten.native_group_norm(_dense(x), weight, bias, *self._sizes(x), self.eps)

    def backward(self, grad, x_hat, weight, bias, rstd, wanted, out) -> Tensors:
        zero = x_hat.new_zeros(len(x_hat), self.groups)
        given = (zero, zero + 1, weight, *self._sizes(x_hat), wanted)
        found = list(aten.native_group_norm_backward(_dense(grad, x_hat), x_hat, *given))
        if wanted[0]:
            torch.mul(found[0], rstd, out=out)
        return found[1:]

    def _sizes(self, x: torch.Tensor) -> tuple[int, ...]:
        return x.shape[0], x.shape[1], x.shape[2:].numel(), self.groups


@dataclass(frozen=True, eq=False)
class BatchNorm(Norm):
    """Over all but the channels, and an activation whose output determines its input."""

    activation: tuple[str, float]
    running: tuple[torch.Tensor | None, torch.Tensor | None]
    training: bool
    momentum: float

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
        found = list(aten.native_batch_norm_backward(_dense(grad, y), y, *given))
        if wanted[1] and not self.training:
            found[1] = found[1] * divisor.sign()
        return found

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        return activate(y, self.activation)

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


def _dense(x: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return a tensor in the memory format of another, or in its own, as the kernels want it."""
    format = torch._prims_common.suggest_memory_format(x if like is None else like)
    return x.contiguous(memory_format=format)
