"""The operator that computes the gradients of a norm of rows from its output.

The output is [outer, groups, depth, span]. A row is what is normalised together, a group of one of
`outer`; its channels are `depth`, each of `span` elements: one of a layer norm, whose only group
has all channels. With g = grad * weight, and means over a row, the gradient of the input is

    rstd * (g - mean(g) - x_hat * mean(g * x_hat)),    x_hat = (output - bias) / weight,

without mean(g) where the norm takes no mean away (not `centred`). Those of the weight and of the
bias, if `sums` asks for them, are the sums of grad * x_hat and of grad. Of the channels `at` x_hat
is `side`, [outer, at, span]. A weight less than `least`, or than the bias / `steepest`, is not
divided by.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..activations.checks import floating
from ..blocks import blocks
from ..checks import require
from ..native import define, underivable
from ..second import SECOND
from .channels import lost

OP = "norm_backward"


class Sizes(NamedTuple):
    """How an output is laid out."""

    outer: int
    groups: int
    depth: int
    span: int


def _sizes(output: torch.Tensor, rstd: torch.Tensor, channels: int, groups: int) -> Sizes:
    n, rows = output.numel(), rstd.numel()
    divides = channels > 0 and groups > 0 and channels % groups == 0 and rows % groups == 0
    outer = rows // groups if divides else 0
    span = n // (outer * channels) if outer > 0 else 0
    got = f"{n} elements for {rows} rows, {channels} channels and {groups} groups"
    fits = divides and outer * channels * span == n
    require(fits, OP, "output", "whole rows of whole channels", got)
    return Sizes(outer, groups, channels // groups, span)


def _check_tensor(
    name: str, x: torch.Tensor | None, dtype: torch.dtype, numel: int, output: torch.Tensor
) -> None:
    if x is None:
        return
    got = f"{x.numel()} of {x.dtype}"
    require(x.dtype == dtype and x.numel() == numel, OP, name, f"{numel} of {dtype}", got)
    require(x.device == output.device, OP, name, "on the device of output", x.device)


def _check(grad, output, rstd, weight, bias, at, side, channels, groups) -> Sizes:
    floating(OP, "output", output.dtype)
    sizes = _sizes(output, rstd, channels, groups)
    wide = torch.promote_types(output.dtype, torch.float32)
    _check_tensor("grad", grad, output.dtype, output.numel(), output)
    _check_tensor("rstd", rstd, wide, rstd.numel(), output)
    _check_tensor("weight", weight, wide, channels, output)
    _check_tensor("bias", bias, wide, channels, output)
    both = (at is None) == (side is None)
    require(both, OP, "at and side", "given together", "one of them")
    if at is not None:
        _check_tensor("at", at, torch.int64, at.numel(), output)
        _check_tensor("side", side, output.dtype, sizes.outer * at.numel() * sizes.span, output)
    return sizes


def _reference(
    grad, output, rstd, weight, bias, at, side, channels, groups, centred, least, steepest, sums
):
    given = (grad, output, rstd, weight, bias, at, side, channels, groups)
    sizes = _check(*given)
    found, *totals = results = _fake(*given, centred, least, steepest, sums)
    for total in totals:
        total.zero_()
    if output.numel() == 0:
        return results
    size = sizes.outer, channels, sizes.span
    y, slope, of_input = (t.contiguous().view(size) for t in (output, grad, found))
    side = None if at is None or at.numel() == 0 else side.reshape(size[0], -1, size[2])
    scale, shift, divisor = _affine(rstd, weight, bias, channels, least, steepest)
    for part in blocks(y):
        x_hat, g = (y[part] - shift) / divisor, slope[part].to(rstd.dtype)
        if side is not None:
            x_hat.index_copy_(1, at, side[part].to(x_hat.dtype))
        for total, terms in zip(totals, (g * x_hat, g), strict=True):
            if total.numel():
                total += terms.sum((0, 2))
        rows = (t.view(-1, groups, size[1] // groups * size[2]) for t in (g * scale, x_hat))
        of_input[part] = _of_rows(*rows, rstd.view(-1, groups, 1)[part], centred).view_as(g)
    return results


def _affine(rstd, weight, bias, channels, least, steepest) -> list[torch.Tensor]:
    """Return weight, bias, and what to divide by, to broadcast over channels."""
    none = rstd.new_zeros(channels)
    weight = none + 1 if weight is None else weight.flatten()
    bias = none if bias is None else bias.flatten()
    divisor = weight.masked_fill(lost(weight, bias, least, steepest), 1)
    return [t.unsqueeze(1) for t in (weight, bias, divisor)]


def _of_rows(g, x_hat, rstd, centred: bool) -> torch.Tensor:
    slope = (g * x_hat).mean(-1, keepdim=True)
    g = g - g.mean(-1, keepdim=True) if centred else g
    return rstd * (g - x_hat * slope)


def _fake(
    grad, output, rstd, weight, bias, at, side, channels, groups, centred, least, steepest, sums
):
    _check(grad, output, rstd, weight, bias, at, side, channels, groups)
    counts = (channels if sums and given is not None else 0 for given in (weight, bias))
    of_input = torch.empty_like(output, memory_format=torch.contiguous_format)
    return of_input, *(rstd.new_empty([count]) for count in counts)


norm_backward = define(
    OP,
    reference=_reference,
    fake=_fake,
    derivative=underivable(OP, SECOND),
)
