"""The gradients of a norm from what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..blocks import blocks
from .channels import hopeless
from .kinds import BatchNorm, Norm, Tensors


class Kept(NamedTuple):
    """What is kept: `side` is x_hat of the channels `at`; without a weight both are None."""

    output: torch.Tensor
    rstd: torch.Tensor
    at: torch.Tensor | None
    side: torch.Tensor | None


class Affine(NamedTuple):
    """By channel, in float32 at least: y = x_hat * divisor + mean; the weight as it is, and bias.

    Of channels where that is hopeless the divisor is 1.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    mean: torch.Tensor | None
    divisor: torch.Tensor | None


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
    affine = _affine(weight, bias, own.output.dtype)
    compute = _by_channels if isinstance(norm, BatchNorm) else _by_rows
    found = compute(grad, norm, wanted, affine, own)
    like = (own.output, weight, bias)
    return tuple(
        value.to(of.dtype).view_as(of) if want else None
        for value, of, want in zip(found, like, wanted, strict=True)
    )


def _affine(weight: torch.Tensor | None, bias: torch.Tensor | None, dtype: torch.dtype) -> Affine:
    wide = torch.promote_types(dtype, torch.float32)
    w, b = (None if t is None else t.detach().flatten().to(wide) for t in (weight, bias))
    if w is None:
        return Affine(w, b, b, None)
    # Without a place such a channel counts as 0, or nearly: it must not become infinite.
    return Affine(w, b, b, w.masked_fill(hopeless(weight, bias, dtype).flatten(), 1))


def _by_channels(
    grad: torch.Tensor, norm: BatchNorm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    """Of a batch norm torch's kernel undoes the affine map too: mean and deviation are as many."""
    grad, y = norm.deactivate(grad, kept.output)
    like = kept.rstd.to(torch.promote_types(y.dtype, torch.float32))
    mean = torch.zeros_like(like) if affine.mean is None else affine.mean
    divisor = torch.ones_like(like) if affine.divisor is None else affine.divisor
    if kept.at is not None and kept.at.numel():
        y = y.clone().index_copy_(norm.dim, kept.at, kept.side.to(y.dtype))
        mean, divisor = mean.index_fill(0, kept.at, 0), divisor.index_fill(0, kept.at, 1)
    return norm.backward(grad, y, affine.weight, like, wanted, mean, divisor)


def _by_rows(
    grad: torch.Tensor, norm: Norm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    grad, y, rstd = (norm.rows(t) for t in (grad, kept.output, kept.rstd))
    rows = Kept(y, rstd, kept.at, None if kept.at is None else norm.rows(kept.side, 1))
    of_input = torch.empty_like(y) if wanted[0] else None
    sums: Tensors = ()
    for part, slope, x_hat in _normalised(grad, norm, affine, rows):
        scale, out = norm.broadcast(rstd[part], x_hat), of_input[part] if wanted[0] else None
        more = norm.backward(slope, x_hat, affine.weight, affine.bias, scale, wanted, out)
        sums = [_added(*pair) for pair in zip(sums, more, strict=True)] if sums else more
    return of_input, *sums


def _added(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    return None if more is None else total.add_(more)


def _normalised(
    grad: torch.Tensor, norm: Norm, affine: Affine, kept: Kept
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield parts of the rows: the gradient and x_hat, in float32 at least.

    Both are in memory that the next part takes again: new memory costs more than filling it.
    """
    wide = torch.promote_types(kept.output.dtype, torch.float32)
    parts = list(blocks(kept.output))
    first = kept.output[parts[0]]
    rooms = [torch.empty_like(first, dtype=wide) for _ in range(2)]
    scale, shift = _undone(norm, affine, first)
    for part in parts:
        y = kept.output[part]
        room, slope = (room[: len(y)] for room in rooms)
        yield part, _cast(grad[part], slope), _x_hat(norm, y, room, scale, shift, kept, part)


def _undone(norm: Norm, affine: Affine, like: torch.Tensor) -> Tensors:
    """Return what x_hat = y * scale + shift has."""
    scale = None if affine.divisor is None else affine.divisor.reciprocal()
    shift = None if affine.mean is None else -affine.mean
    if None not in (scale, shift):
        shift = shift * scale
    return tuple(None if t is None else norm.per_channel(t, like) for t in (scale, shift))


def _x_hat(
    norm: Norm,
    y: torch.Tensor,
    room: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    kept: Kept,
    part: slice,
) -> torch.Tensor:
    y = _cast(y, room)
    if scale is not None and shift is not None:
        y = torch.addcmul(shift, y, scale, out=room)
    elif scale is not None:
        y = torch.mul(y, scale, out=room)
    elif shift is not None:
        y = torch.add(y, shift, out=room)
    if kept.at is not None and kept.at.numel():
        y.index_copy_(norm.dim, kept.at, kept.side[part].to(y.dtype))
    return y


def _cast(x: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the dtype of `room`, in that memory if it has another."""
    return x if x.dtype == room.dtype else room.copy_(x)
