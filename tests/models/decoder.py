"""A small decoder with tied embeddings and dropout, which compiles in seconds to one graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .zoo import LENGTH, SIZE, VOCABULARY


class Block(nn.Module):
    """A pre-norm transformer block: float32 [batch, length, size] to the same."""

    def __init__(self, size: int = SIZE, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend, then apply the MLP."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        heads = F.scaled_dot_product_attention(*qkv.unbind(2), is_causal=True)
        x = x + self.dropout(self.out(heads.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Decoder(nn.Module):
    """Blocks between a token embedding and its transpose; returns the loss.

    Args:
        call: how a block is applied to its input, e.g. under `torch.utils.checkpoint`.
    """

    def __init__(
        self,
        layers: int = 2,
        dropout: float = 0.1,
        call: Callable[[Block, torch.Tensor], torch.Tensor] = nn.Module.__call__,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, SIZE)
        self.positions = nn.Embedding(2 * LENGTH, SIZE)
        self.blocks = nn.ModuleList(Block(dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(SIZE)
        self.call = call

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross entropy of the next token, for int64 [batch, length]."""
        x = self.tokens(input_ids) * 0.1 + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = self.call(block, x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
