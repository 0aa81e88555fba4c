"""A language model of Reformer's blocks (Kitaev et al. 2020), on this very file.

Attention and feed-forward alternate in one reversible chain; both streams begin as the embedding.
The feed-forward is cut along the sequence and computed chunk by chunk, so that its wide inner
activations are never there together. `python examples/reversible_reformer.py`
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fxmem.measure import kept, peak_bytes
from fxmem.nn.reversible import ReversibleSequential


class Attention(nn.Module):
    """Causal self-attention after a layer norm, [N, length, width]."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ChunkedFeedForward(nn.Module):
    """Two linear layers, four times the width between them, `chunk` positions at a time."""

    def __init__(self, width, chunk):
        super().__init__()
        self.chunk, self.norm = chunk, nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        parts = self.norm(x).split(self.chunk, dim=1)
        # When the block is computed again, a checkpoint keeps its graph from holding all chunks.
        return torch.cat([checkpoint(self._feed, p, use_reentrant=False) for p in parts], 1)

    def _feed(self, x):
        return self.down(functional.gelu(self.up(x)))


class Reformer(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, width=32, depth=4, chunk=16, memory="reversible"):
        super().__init__()
        self.embedding, self.head = nn.Embedding(256, width), nn.Linear(width, 256)
        blocks = [b for _ in range(depth) for b in self._pair(width, chunk)]
        self.chain = ReversibleSequential(*blocks, split_dim=None, memory=memory)
        self.norm = nn.LayerNorm(width)

    @staticmethod
    def _pair(width, chunk):
        return Attention(width, heads=4), ChunkedFeedForward(width, chunk)

    def forward(self, tokens):
        return self.head(self.norm(self.chain(self.embedding(tokens))))


def batch(text, count=8, length=64):
    """Pieces of a text and, for each position, the byte that follows."""
    starts = torch.randint(len(text) - length - 1, (count, 1))
    pieces = text[starts + torch.arange(length + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def loss_of(model, tokens, following):
    return functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())


def main(steps=12):
    """Train a little; return first and last loss, bytes kept by depth, and peaks by chunk."""
    torch.manual_seed(0)
    text = torch.tensor(list(Path(__file__).read_bytes()))
    model = Reformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, *batch(text))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = {}
    for depth in (2, 6):
        deep, tokens = Reformer(depth=depth), batch(text)[0]
        found[depth] = kept(lambda m=deep, x=tokens: m.chain(m.embedding(x))).nbytes
    peaks = {chunk: _peak(Reformer(depth=1, chunk=chunk), text) for chunk in (128, 8)}
    return losses[0], losses[-1], found, peaks


def _peak(model, text):
    """Bytes at once in forward and backward of the chain, over eight sequences of 128."""
    x = model.embedding(batch(text, length=128)[0]).detach()
    model.chain.zero_grad()

    def step():
        model.chain(x).sum().backward()

    step()
    return peak_bytes(step)


if __name__ == "__main__":
    first, last, found, peaks = main()
    print(f"loss {first:.3f} -> {last:.3f}")
    for depth, nbytes in found.items():
        print(f"depth {depth}: {nbytes / 1024:.0f} KiB kept")
    for chunk, nbytes in peaks.items():
        print(f"chunks of {chunk}: peak {nbytes / 1024:.0f} KiB")
