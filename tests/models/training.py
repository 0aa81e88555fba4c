"""How these tests train: the same scenario under two compilers, the same seeds, and what differs.

A scenario is a function of a compiler (`f -> f`): it builds, trains and returns the gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._functorch.config
from torch import nn

import fxmem
from fxmem.backend import fxmem as backend

Gradients = dict[str, torch.Tensor]
Compiler = Callable[[Callable], Callable]
Scenario = Callable[[Compiler], Gradients]

PRESETS = ("exact", "balanced", "compact")

# Relative error of all gradients as one vector. exact: fp32 rounding, reordered in what is
# recomputed (2e-7 to 5e-7 measured), and ten times that again for batch norms and convolutions.
# balanced: what the preset promises. compact: what 4 bits give on these models, 6 % to 12 % and
# 17 % for T5; a sign or a scale lost anywhere gives more.
BOUNDS = {"exact": 1e-5, "balanced": 1e-2, "compact": 0.2}

# The models are small, and so are their residuals: a few KiB must be worth encoding.
SMALL = 1024


def options(preset: str, **more) -> dict:
    """Return the options of torch.compile that have a preset at work on a small model."""
    return {"preset": preset, "min_bytes": SMALL, **more}


def compiler(preset: str, *, inner: str = "aot_eager", dynamic: bool | None = None, **more):
    """Return `torch.compile` with fxmem at this preset; `more` are further options."""
    chosen = options(preset, inner=inner, **more)
    return lambda f: torch.compile(f, backend=backend, dynamic=dynamic, options=chosen)


def eager(f: Callable) -> Callable:
    """Return what it is given: the compiler that does nothing."""
    return f


def run(scenario: Scenario, compile: Compiler) -> Gradients:
    """Run a scenario from a fixed seed, with nothing compiled before."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    # A graph from the cache on disk was not partitioned here, and leaves no report.
    with torch._functorch.config.patch(enable_autograd_cache=False):
        return scenario(compile)


def gradients(model: nn.Module) -> Gradients:
    """Return a copy of the gradients of a model, by parameter."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def relative_error(found: Gradients, exact: Gradients) -> float:
    """Return the error of all gradients as one vector, in the Euclidean norm."""
    assert found.keys() == exact.keys()
    pairs = [(found[name].double(), exact[name].double()) for name in exact]
    error = sum((a - b).square().sum() for a, b in pairs)
    return (error / sum(b.square().sum() for _, b in pairs)).sqrt().item()


def encoded(graphs: int = 1) -> list[fxmem.Site]:
    """Return the residuals that the graphs compiled last encode with loss."""
    return [e for e in fxmem.last_report(graphs).entries if e.guarantee != "exact"]
