"""How a network is trained in integers: graph rules, full WAGEUBN, and quantized weights alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from integer_tasks import Network, Task
from torch import fx, nn
from torch.optim import Adam, Optimizer

import fxmem
from fxmem.nn import quantized
from fxmem.weights import ExternalWeightManager

REAL = "float32"
RULES = ("int8", "wageubn8", "dorefa:8,8,8", "dorefa:1,2,6", "binarynet", "xnor")
SIGNS = ("binarynet", "xnor")  # whose activations are signs


@dataclass(frozen=True)
class Run:
    """A network that is being trained: what holds its parameters, what runs it, what steps.

    `evaluation` is entered to judge it.
    """

    model: nn.Module
    call: Network
    optimizers: tuple[Optimizer, ...]
    evaluation: Callable[[], Any] = field(default=contextlib.nullcontext)


Way = Callable[[Task, int], Run]


def real(task: Task, seed: int) -> Run:
    """Nothing changed, and Adam."""
    model = task.network(seed, False)
    return Run(model, model, (Adam(model.parameters(), task.rate),))


def ruled(method: str, task: Task, seed: int) -> Run:
    """A graph whose layers compute in integers, but for the first and the last; and Adam."""
    model = task.network(seed, method in SIGNS)
    # Where a layer keeps codes, relu is left to keep its output: one bit is as good.
    rules = {"integer": method, "quantized_gradient": {"bits": 1}}
    graph = fxmem.transform(fx.symbolic_trace(model), {"rules": rules})
    optimizer = Adam(model.parameters(), task.rate)
    if method in SIGNS:
        optimizer.register_step_post_hook(lambda *_: clip(model))
    return Run(model, graph, (optimizer,))


@torch.no_grad()
def clip(model: nn.Module) -> None:
    """Keep the masters of binary weights where their gradient is."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.weight.clamp_(-1, 1)


def full(task: Task, seed: int) -> Run:
    """Every layer that fxmem.nn.quantized has, and its optimizer; Adam for what is left."""
    model = task.network(seed, False)
    quantized.config_network(model, ".*", quantized.QuantConfig())
    layers = [m for m in model.modules() if hasattr(m, "config")]
    own = {p for layer in layers for p in layer.parameters(recurse=False)}
    rest = [p for p in model.parameters() if p not in own]
    generator = torch.Generator().manual_seed(seed)
    ours = [p for p in model.parameters() if p in own]
    optimizers = [quantized.SGD(ours, lr=task.integer_rate, generator=generator)]
    optimizers += [Adam(rest, task.rate)] if rest else []
    return Run(model, model, tuple(optimizers))


def managed(method: str, options: dict[str, Any], task: Task, seed: int) -> Run:
    """Quantized weights and real activations: the manager follows Adam."""
    model = task.network(seed, False)
    optimizer = Adam(model.parameters(), task.rate)
    generator = torch.Generator().manual_seed(seed)
    manager = ExternalWeightManager(
        model, method, optimizer=optimizer, generator=generator, **options
    )
    return Run(model, model, (optimizer,), manager.evaluate)


GLOROT = {"scale": "glorot"}  # weights of ±H, as BinaryConnect's authors have them
WAYS: dict[str, Way] = {
    REAL: real,
    **{rule: partial(ruled, rule) for rule in RULES},
    "wageubn in full": full,
    "weights: binaryconnect": partial(managed, "binaryconnect", GLOROT),
    "weights: binaryconnect, stochastic": partial(
        managed, "binaryconnect", {**GLOROT, "stochastic": True}
    ),
    "weights: binarynet": partial(managed, "binarynet", GLOROT),
    "weights: xnor": partial(managed, "xnor", {}),
    "weights: dorefa, 1 bit": partial(managed, "dorefa", {"bits": 1}),
    "weights: wageubn": partial(managed, "wageubn", {}),
}
