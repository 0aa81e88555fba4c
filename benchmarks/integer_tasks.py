"""What networks of integers learn: scikit-learn's digits, and bytes of Python's sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]
Network = Callable[[torch.Tensor], torch.Tensor]
WIDTH, HEADS, BLOCKS, TOKENS, BYTES = 96, 4, 2, 64, 256


@dataclass(frozen=True)
class Task:
    """A network with its data.

    Attributes:
        score: what `judge` returns, as a table heads it, on held-out data.
        network: makes the network for a seed; with `signs`, in the order that signs need: a layer's
            input is a norm's output and not a rectified one, and a norm follows each layer.
        batches: endless training batches for a seed, inputs and classes.
        rate, integer_rate: the learning rates of Adam, and of `quantized.SGD`.
        steps: how many are enough to tell the ways apart.
        places: decimal places that the score is shown with.
    """

    score: str
    network: Callable[[int, bool], nn.Module]
    batches: Callable[[int], Iterator[Batch]]
    judge: Callable[[Network], float]
    rate: float
    integer_rate: float
    steps: int = 100
    places: int = 1


def loss(outputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of [..., classes] and [...]."""
    return F.cross_entropy(outputs.flatten(0, -2), classes.flatten())


def digits() -> Task:
    """Images [n, 1, 8, 8] within ±1, a fifth held out, and a small convolutional network."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[len(order) // 5 :], order[: len(order) // 5]

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = train[torch.randint(len(train), (64,), generator=generator)]
            yield images[chosen], labels[chosen]

    def right(run: Network) -> float:
        found = run(images[held_out]).argmax(1)
        return 100 * (found == labels[held_out]).float().mean().item()

    return Task("held-out %", convolutions, batches, right, 2e-3, 0.2)


def convolutions(seed: int, signs: bool = False) -> nn.Sequential:
    """Four convolutions with batch norms, and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for given, out, stride in ((1, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(given, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)]
        layers += [] if signs else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def text() -> Task:
    """Windows of 64 bytes of the standard library's sources, and a transformer of two blocks."""
    from fxmem.demo import task as demo

    source, sizes = demo.read_text(), demo.Task(tokens=TOKENS + 1, batch=8)

    def batches(seed: int, held_out: bool = False) -> Iterator[Batch]:
        for window in source.batches(sizes, seed, held_out):
            yield window[:, :-1], window[:, 1:]

    judged = list(islice(batches(2, held_out=True), 16))

    def nats(run: Network) -> float:
        return sum(loss(run(x), y).item() for x, y in judged) / len(judged)

    return Task("held-out loss", transformer, batches, nats, 2e-3, 2.0, steps=160, places=3)


class Block(nn.Module):
    """Attention and two linear layers, each behind a layer norm and with a way around."""

    def __init__(self, signs: bool):
        super().__init__()
        linear = _normed if signs else nn.Linear
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
        self.up, self.down = linear(WIDTH, 4 * WIDTH), linear(4 * WIDTH, WIDTH)
        self.act = nn.Identity() if signs else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm_1(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm_2(x))))


def _normed(given: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, out, bias=False), nn.LayerNorm(out))


class Transformer(nn.Module):
    """Reads bytes [batch, tokens] and says the logits of the next ones."""

    def __init__(self, signs: bool):
        super().__init__()
        self.embedding = nn.Embedding(BYTES, WIDTH)
        self.places = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block(signs) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens) + self.places)))


def transformer(seed: int, signs: bool = False) -> Transformer:
    """A transformer of two blocks of width 96."""
    torch.manual_seed(seed)
    return Transformer(signs)


TASKS = {"digits": digits, "text": text}
