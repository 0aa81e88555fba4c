"""A language model of two streams: attention and MLP in turns, each added to the other stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from fxmem.demo.task import Task
from fxmem.nn.reversible import ReversibleSequential


class Attention(nn.Module):
    """Causal self-attention behind a norm: (batch, tokens, width) to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Module:
    """Return an MLP behind a norm, four times as wide inside."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Linear(4 * width, width),
    )


class Prediction(NamedTuple):
    """What a transformers model returns, as far as the training reads it."""

    logits: torch.Tensor


class ReversibleGPT(nn.Module):
    """`task.layers` pairs of attention and MLP over bytes, on two streams of `task.width` each."""

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__()
        both = 2 * task.width
        self.bytes = nn.Embedding(256, both)
        self.places = nn.Parameter(0.02 * torch.randn(task.tokens, both))
        blocks = [
            block
            for _ in range(task.layers)
            for block in (Attention(task.width, task.heads), feed_forward(task.width))
        ]
        for block in blocks:
            last = block.out if isinstance(block, Attention) else block[-1]
            # What so many branches add up to stays about as large as what one adds (GPT-2).
            last.weight.data /= len(blocks) ** 0.5
        self.blocks = ReversibleSequential(*blocks, split_dim=-1, **options)
        self.head = nn.Sequential(nn.LayerNorm(both), nn.Linear(both, 256))

    def forward(self, tokens: torch.Tensor) -> Prediction:
        """Return logits (batch, tokens, 256) of the next byte."""
        return Prediction(self.head(self.blocks(self.bytes(tokens) + self.places)))


def new_reversible(task: Task, seed: int = 0, **options: Any) -> nn.Module:
    """Return the model with the weights that a seed gives, the same whatever the options.

    The options are `ReversibleSequential`'s.
    """
    torch.manual_seed(seed)
    return ReversibleGPT(task, **options)
