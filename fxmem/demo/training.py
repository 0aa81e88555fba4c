"""The same training under every backend, and the ruler on what came of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch.nn import functional

from fxmem.demo.task import Task, Text
from fxmem.demo.ways import Way
from fxmem.measure import Variant


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to be measured: losses of its steps, and on the held-out text."""

    variant: Variant
    losses: list[float]
    held_out: float


def train(
    start: torch.nn.Module, way: Way, task: Task, text: Text, tick: Callable[[float], None]
) -> Trained:
    """Train a copy of ``start``; the data and seeds do not depend on the way.

    ``tick`` is called after every step with its loss.
    """
    model = copy.deepcopy(start).train()
    loss_of = _loss(model, task)
    compiled = way.compile(loss_of)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, total_steps=task.steps)
    torch.manual_seed(0)
    losses = []
    for tokens in islice(text.batches(task, seed=0), task.steps):
        loss = compiled(tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        tick(losses[-1])
    tokens = next(text.batches(task, seed=1))
    held_out = _judge(model, loss_of, task, text)
    return Trained(Variant(model, lambda: compiled(tokens)), losses, held_out)


def variant(model: torch.nn.Module, task: Task, tokens: torch.Tensor) -> Variant:
    """Return a model with its loss on one batch, in eager mode."""
    loss = _loss(model, task)
    return Variant(model, lambda: loss(tokens))


def _loss(model: torch.nn.Module, task: Task) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the mean cross entropy of the next byte, in nats, as a function of the tokens."""

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        half = torch.autocast("cpu", torch.bfloat16) if task.bf16 else contextlib.nullcontext()
        with half:
            logits = model(tokens).logits
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()
        )

    return loss


@torch.no_grad()
def _judge(
    model: torch.nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor], task: Task, text: Text
) -> float:
    """Return the loss on held-out text, without dropout and in eager mode for every way."""
    model.eval()
    batches = islice(text.batches(task, seed=2, held_out=True), task.judged)
    loss = sum(loss_of(tokens).item() for tokens in batches) / task.judged
    model.train()
    return loss
