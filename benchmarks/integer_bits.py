"""The bits that one more layer keeps of an element of its input, by the ruler."""

from __future__ import annotations

from typing import Any

import torch
from integer_tasks import Task
from integer_ways import Way
from torch import nn

from fxmem.measure import kept

CHANNELS, BATCH = 96, 8


def kept_bits(way: Way, linear: bool) -> float:
    """Of a linear layer or a 3 x 3 convolution that is neither the first nor the last.

    A layer more, and more of it for a larger batch: what neighbours and weights keep cancels.
    """
    grown = [_bytes(way, n, linear, 2) - _bytes(way, n, linear, 1) for n in (3, 4)]
    return 8 * (grown[1] - grown[0]) / _input(linear, 1).numel()


def _bytes(way: Way, layers: int, linear: bool, batches: int) -> int:
    run = way(_task(layers, linear), 0)
    x = _input(linear, batches)
    return kept(lambda: run.call(x)).nbytes


def _input(linear: bool, batches: int) -> torch.Tensor:
    # The sizes are multiples of what an allocator rounds to.
    size = (64 * batches, CHANNELS) if linear else (BATCH * batches, CHANNELS, 8, 8)
    return torch.randn(size)


def _task(layers: int, linear: bool) -> Task:
    def network(seed: int, signs: bool) -> nn.Sequential:
        return nn.Sequential(*(_layer(linear) for _ in range(layers)))

    return Task("", network, _unused, _unused, 1e-3, 0.1)


def _unused(*_: object) -> Any:
    raise NotImplementedError("nothing is trained here")


def _layer(linear: bool) -> nn.Module:
    if linear:
        return nn.Linear(CHANNELS, CHANNELS, bias=False)
    return nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, bias=False)
