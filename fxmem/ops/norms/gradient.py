"""The gradients of a norm from what is kept of it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .backward import norm_backward
from .channels import least, lost, steepest
from .kinds import BatchNorm, Norm, Tensors, dense


class Kept(NamedTuple):
    """What is kept: `side` is x_hat of the channels `at`; None both where there are none."""

    output: torch.Tensor
    rstd: torch.Tensor
    at: torch.Tensor | None
    side: torch.Tensor | None


class Affine(NamedTuple):
    """By channel, in float32 at least."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None


def gradients(
    grad: torch.Tensor,
    norm: Norm,
    wanted: list[bool],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *kept: torch.Tensor | None,
) -> Tensors:
    """Return the gradients of input, weight and bias, None for those not wanted.

    Args:
        kept: the tensors of :class:`Kept`.
    """
    own = Kept(*kept)
    wide = torch.promote_types(own.output.dtype, torch.float32)
    affine = Affine(_cast(weight, wide), _cast(bias, wide))
    own = own._replace(rstd=_cast(own.rstd, wide))
    compute = _by_channels if isinstance(norm, BatchNorm) else _by_rows
    found = compute(grad, norm, wanted, affine, own)
    like = (own.output, weight, bias)
    return tuple(
        _cast(value, of.dtype).view_as(of) if want else None
        for value, of, want in zip(found, like, wanted, strict=True)
    )


def _cast(x: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`to`, but that a call which does nothing takes no time."""
    return x if x is None or x.dtype == dtype else x.to(dtype)


def _by_rows(
    grad: torch.Tensor, norm: Norm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    y, dtype = kept.output, kept.output.dtype
    given = (kept.rstd, *affine, kept.at, kept.side, *norm.channels(y), norm.centred)
    limits = least(dtype), steepest(dtype)
    with torch._C._AutoDispatchBelowAutograd():  # nothing here is differentiated
        found = norm_backward(grad, y, *given, *limits, any(wanted[1:]))
    return dense(found[0], y), *found[1:]


def _by_channels(
    grad: torch.Tensor, norm: BatchNorm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    """Of a batch norm torch's kernel undoes the affine map too: mean and deviation are as many."""
    before, (grad, y) = grad, norm.deactivate(grad, kept.output)
    mean = torch.zeros_like(kept.rstd) if affine.bias is None else affine.bias
    divisor = _divisor(affine, kept)
    if kept.at is not None:
        x_hat = kept.side.view(len(y), -1, *y.shape[2:]).to(y.dtype)
        y = y.clone().index_copy_(1, kept.at, x_hat)
        grad = _from_side(before, grad, norm, affine, kept.at, x_hat)
        mean, divisor = mean.index_fill(0, kept.at, 0), divisor.index_fill(0, kept.at, 1)
    return norm.backward(grad, y, affine.weight, kept.rstd, wanted, mean, divisor)


def _from_side(
    grad: torch.Tensor,
    found: torch.Tensor,
    norm: BatchNorm,
    affine: Affine,
    at: torch.Tensor,
    x_hat: torch.Tensor,
) -> torch.Tensor:
    """Return `found`, the gradient before the activation, with the channels `at` from x_hat."""
    if norm.activation[0] != "elu":  # of others the sign says it all
        return found
    weight, bias = (t if t is None else t[at].view(-1, *[1] * (x_hat.dim() - 2)) for t in affine)
    y = x_hat if weight is None else x_hat * weight
    y = y if bias is None else y + bias
    of_elu = (norm.activation[1], 1, 1, False)
    picked = grad.index_select(1, at).to(y.dtype)
    return found.index_copy_(1, at, torch.ops.aten.elu_backward(picked, *of_elu, y))


def _divisor(affine: Affine, kept: Kept) -> torch.Tensor:
    """Return the weight; of channels where it is hopeless to divide by it, 1."""
    if affine.weight is None:
        return torch.ones_like(kept.rstd)
    dtype = kept.output.dtype
    return affine.weight.masked_fill(lost(*affine, least(dtype), steepest(dtype)), 1)
