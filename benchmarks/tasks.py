"""Small trainings on real data that need no download: bytes of Python's own sources, and digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import nn
from torch.nn import functional

import fxmem
from fxmem.demo.task import Task, new_model, read_text
from fxmem.measure import kept


@dataclass(frozen=True)
class Training:
    """A model with its data: what is trained, on which batches, and how it is judged.

    Attributes:
        model: makes a model for a seed.
        batches: endless training batches for a seed.
        loss: of a model on a batch.
        judged: the held-out batches.
        steps, rate: of AdamW under a one-cycle schedule, gradients clipped to norm 1.
    """

    model: Callable[[int], nn.Module]
    batches: Callable[[int], Iterator]
    loss: Callable[[nn.Module, object], torch.Tensor]
    judged: list
    steps: int
    rate: float


def text(steps: int = 300) -> Training:
    """GPT-2 of two layers on the bytes of the standard library's sources."""
    task = Task(layers=2, width=96, heads=4, tokens=64, batch=16, steps=steps, rate=2e-3)
    source = read_text()

    def loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        logits = model(tokens).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    judged = list(islice(source.batches(task, seed=2, held_out=True), 32))
    return Training(
        partial(new_model, task), partial(source.batches, task), loss, judged, steps, task.rate
    )


def flash(steps: int = 300) -> Training:
    """The same without dropout of attention's probabilities, which no device then keeps."""
    training = text(steps)

    def undropped(seed: int) -> nn.Module:
        model = training.model(seed)
        for block in model.transformer.h:
            block.attn.attn_dropout.p = 0.0
        return model

    return replace(training, model=undropped)


def digits(steps: int = 300) -> Training:
    """A vision transformer of four layers on scikit-learn's 8 x 8 digits, a fifth held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, train = order[: len(order) // 5], order[len(order) // 5 :]

    def batches(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = train[torch.randint(len(train), (64,), generator=generator)]
            yield images[chosen], labels[chosen]

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]).logits, batch[1])

    judged = [(images[held_out], labels[held_out])]
    return Training(_vit, batches, loss, judged, steps, rate=1e-3)


def _vit(seed: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_labels=10,
        )
    )


TRAININGS = {"text": text, "digits": digits, "flash": flash}


def with_linear_layers(model: nn.Module) -> nn.Module:
    """Return a model with torch.nn.Linear in place of GPT-2's layers, which compute the same."""
    from transformers.pytorch_utils import Conv1D

    def linear(module: nn.Module, path: str) -> nn.Module:
        if not isinstance(module, Conv1D):
            return module
        twin = nn.Linear(module.nx, module.nf, device="meta")  # draws no random numbers
        twin.weight, twin.bias = nn.Parameter(module.weight.detach().mT.contiguous()), module.bias
        return twin

    return fxmem.map_module(model, linear)


def kept_bytes(training: Training, prepare: Callable[[nn.Module], nn.Module]) -> int:
    """What one forward of a model, changed by `prepare`, keeps for its backward."""
    model = prepare(training.model(0)).train()
    batch = next(training.batches(0))
    return kept(lambda: training.loss(model, batch)).nbytes


def train(training: Training, seed: int, prepare: Callable[[nn.Module], nn.Module]) -> float:
    """Train a model from a seed, changed by `prepare` first; return its loss on held-out data.

    Initial weights, batches and dropout depend on the seed alone, and on what `prepare` draws.
    """
    model = prepare(training.model(seed)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=training.steps
    )
    for batch in islice(training.batches(seed), training.steps):
        training.loss(model, batch).backward()
        # Without it one seed in five spends hundreds of steps on a plateau, by chance.
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    model.eval()
    with torch.no_grad():
        losses = [training.loss(model, batch).item() for batch in training.judged]
    return sum(losses) / len(losses)
