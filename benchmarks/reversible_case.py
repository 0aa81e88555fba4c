"""The networks of benchmarks/reversible.py: two streams, transformer or convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxmem.demo.reversible import Attention, feed_forward
from fxmem.nn.reversible import ReversibleSequential


@dataclass(frozen=True)
class Kind:
    """A network to measure: its pairs of branches, its input and where that is cut in two."""

    branches: Callable[[int], tuple[nn.Module, nn.Module]]
    shape: Callable[[int, int, int], tuple[int, ...]]
    split: int


def convolution(width: int) -> nn.Module:
    """Return two convolutions of 3 x 3, each behind batch norm and ReLU."""
    layers = [
        layer
        for _ in range(2)
        for layer in (
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
    ]
    return nn.Sequential(*layers)


KINDS = {
    "transformer": Kind(
        lambda width: (Attention(width, heads=8), feed_forward(width)),
        lambda batch, tokens, width: (batch, tokens, 2 * width),
        split=-1,
    ),
    "conv": Kind(
        lambda width: (convolution(width), convolution(width)),
        lambda batch, side, width: (batch, 2 * width, side, side),
        split=1,
    ),
}


class Block(nn.Module):
    """Two additive couplings."""

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = a + self.f(b)
        return a, b + self.g(a)


class TwoStreams(nn.Module):
    """Blocks as a user writes them; `by_block`: with torch's checkpoint around each."""

    def __init__(self, kind: Kind, layers: int, width: int, by_block: bool = False) -> None:
        super().__init__()
        self.split, self.by_block = kind.split, by_block
        self.blocks = nn.ModuleList(Block(*kind.branches(width)) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, self.split)
        for block in self.blocks:
            if self.by_block:
                a, b = checkpoint(block, a, b, use_reentrant=False)
            else:
                a, b = block(a, b)
        return torch.cat([a, b], self.split)


def modules(kind: Kind, layers: int, width: int, **options: Any) -> nn.Module:
    """Return the same function from fxmem's modules; parameters are made in the same order."""
    branches = [branch for _ in range(layers) for branch in kind.branches(width)]
    return ReversibleSequential(*branches, split_dim=kind.split, **options)
