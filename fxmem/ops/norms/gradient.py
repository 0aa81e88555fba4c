"""The gradients of a norm from what is kept of it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..blocks import blocks
from .channels import hopeless
from .kinds import Norm, Tensors


class Kept(NamedTuple):
    """What is kept: `side` is x_hat of the channels `at`; without a weight both are None."""

    output: torch.Tensor
    rstd: torch.Tensor
    at: torch.Tensor | None
    side: torch.Tensor | None

    def sliced(self, part: slice) -> Kept:
        """Return what is kept of some rows."""
        side = None if self.side is None else self.side[part]
        return Kept(self.output[part], self.rstd[part], self.at, side)


class Affine(NamedTuple):
    """Weight and bias, and what to divide by: the weight, 1 where that is hopeless."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None
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
    output, rstd, at, side = kept
    # Without a place such a channel counts as 0, or nearly: it must not become infinite.
    divisor = None if at is None else weight.masked_fill(hopeless(weight, bias, output.dtype), 1)
    affine = Affine(weight, bias, divisor)
    rows = Kept(norm.rows(output), norm.rows(rstd), at, None if at is None else norm.rows(side, 1))
    of_input, *sums = _by_parts(norm.rows(grad), norm, wanted, affine, rows)
    like = (output, weight, bias)
    return tuple(
        value.to(of.dtype).view_as(of) if want else None
        for value, of, want in zip((of_input, *sums), like, wanted, strict=True)
    )


def _by_parts(
    grad: torch.Tensor, norm: Norm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    parts = list(blocks(kept.output)) if norm.separate else []
    if len(parts) < 2:
        return _part(grad, norm, wanted, affine, kept)
    of_input = torch.empty_like(kept.output) if wanted[0] else None
    sums: Tensors = ()
    for part in parts:
        found, *more = _part(grad[part], norm, wanted, affine, kept.sliced(part))
        if wanted[0]:
            of_input[part] = found
        sums = [_added(*pair) for pair in zip(sums, more, strict=True)] if sums else more
    return of_input, *sums


def _added(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    return None if more is None else total.add_(more)


def _part(
    grad: torch.Tensor, norm: Norm, wanted: list[bool], affine: Affine, kept: Kept
) -> Tensors:
    grad, y = norm.deactivate(grad, kept.output)
    x_hat = _normalised(norm, y, affine, kept)
    weight, bias, _ = affine
    found = norm.backward(grad.to(x_hat.dtype), x_hat, weight, bias, wanted)
    if wanted[0]:
        found[0].mul_(norm.broadcast(kept.rstd, kept.output))
    return found


def _normalised(norm: Norm, y: torch.Tensor, affine: Affine, kept: Kept) -> torch.Tensor:
    """Return x_hat, in float32 at least."""
    wide = torch.promote_types(y.dtype, torch.float32)
    if affine.weight is None:
        return y.to(wide) if affine.bias is None else y - norm.per_channel(affine.bias, y).to(wide)
    divisor = norm.per_channel(affine.divisor.to(wide), y)
    if affine.bias is None:
        x_hat = y / divisor
    else:
        x_hat = (y - norm.per_channel(affine.bias.to(wide), y)).div_(divisor)
    if kept.at.numel():
        norm.channelled(x_hat).index_copy_(norm.dim, kept.at, kept.side.to(wide))
    return x_hat
