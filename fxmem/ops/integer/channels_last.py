"""Images with their channels behind: a pixel's are neighbours, as a product of integers wants."""

import torch

from .. import checks
from ..native import define, underivable


def _check(x: torch.Tensor) -> None:
    checks.require(x.dim() == 4, "channels_last", "x", "of 4 dimensions", x.dim())


def _reference(x):
    _check(x)
    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)


def _fake(x):
    _check(x)
    batch, channels, high, wide = x.shape
    return x.new_empty(batch, high, wide, channels)


_channels_last = define(
    "channels_last",
    reference=_reference,
    fake=_fake,
    derivative=underivable("channels_last", "it serves inside others. Use permute"),
)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """[batch, channels, height, width] as [batch, height, width, channels], contiguous.

    x itself where its memory is in that order. Raises RuntimeError for other dimensions.
    """
    if x.dim() == 4 and x.permute(0, 2, 3, 1).is_contiguous():
        return x.permute(0, 2, 3, 1)
    return _channels_last(x)
