"""Work by blocks that stay in a CPU's cache: chains of pointwise operations are limited by it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

BLOCK = 2**17


def blocks(tensor: torch.Tensor) -> Iterator[slice]:
    """Yield slices of the first dimension, of at most BLOCK elements if a row has no more.

    On other devices, where a block is no cheaper, one slice is all of it.
    """
    count = len(tensor)
    small = tensor.device.type != "cpu" or tensor.numel() <= BLOCK
    step = count if small else max(1, BLOCK * count // tensor.numel())
    yield from (slice(start, start + step) for start in range(0, max(count, 1), max(step, 1)))
