"""Every preset trains the models of the zoo.

What joins two layers shows in their graphs; dropout, and what Inductor makes of it, shows in one.
"""

import pytest
import torch
from passes.tools import TestBackend

from .training import (
    BOUNDS,
    PRESETS,
    Compiler,
    Gradients,
    compiler,
    eager,
    encoded,
    gradients,
    options,
    relative_error,
    run,
)
from .zoo import ZOO

# One of each kind, mixture of experts, encoder and decoder, batch norm: compiling them is most of
# these tests' time, and the demo's test compiles a GPT-2.
COMPILED = ("mixtral", "t5", "resnet")
STEPS, RATE = 4, 0.05

# Bytes of codes to bytes of float32: 8 bits, or from 4 to 6 and at most 5.5 on average, and, for
# each group of 64, a bf16 step and below 8 bits a bf16 zero point. The last 1 % is for tensors that
# do not fill their last group.
SHARES = {"exact": 1, "balanced": 1.01 * (8 + 16 / 64) / 32, "compact": 1.01 * (5.5 + 32 / 64) / 32}


def one_step(name: str, **config):
    """Return the scenario: one forward and backward of this model."""

    def scenario(compile: Compiler) -> Gradients:
        model, batch = ZOO[name].build(**config), ZOO[name].batch()
        torch.manual_seed(1)
        compile(model)(**batch).loss.backward()
        return gradients(model)

    return scenario


def descend(name: str, compile: Compiler) -> list[float]:
    """Return the losses of a few steps of SGD on one batch."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, batch = ZOO[name].build(), ZOO[name].batch()
    optimizer, step, losses = torch.optim.SGD(model.parameters(), RATE), compile(model), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = step(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ZOO)
def test_exact_with_dropout(name):
    """Run by eager's own kernels, so with eager's masks."""
    step = one_step(name, dropout=0.1, **ZOO[name].one_layer)
    assert relative_error(run(step, compiler("exact")), run(step, eager)) <= BOUNDS["exact"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ZOO)
def test_presets_on_inductors_graphs(name, preset):
    """Without dropout, whose masks Inductor draws in its own way: what the cut and the codes do."""
    step, backend = one_step(name), TestBackend(options(preset))
    truth = run(step, eager)
    found = run(step, lambda f: torch.compile(f, backend=backend))
    assert sum(plan.after for plan in backend.plans) <= backend.inductor
    sites = [site for plan in backend.plans for site in plan.sites if site.rule == "encode"]
    assert bool(sites) == (preset != "exact")
    before = sum(site.residual.nbytes for site in sites)
    assert sum(site.nbytes for site in sites) <= before * SHARES[preset]
    assert relative_error(found, truth) <= BOUNDS[preset]


@pytest.mark.parametrize("name", ZOO)
def test_compact_learns(name):
    """Four bits lower the loss nearly as far as exact gradients do."""
    plain = descend(name, eager)
    coded = descend(name, compiler("compact"))
    assert encoded(2)  # a warning that transformers gives once makes a second graph of the loss
    assert plain[0] - coded[-1] >= 0.8 * (plain[0] - plain[-1]) > 0


@pytest.mark.parametrize("name", COMPILED)
def test_exact_as_inductor_with_dropout(name):
    """The same graph draws the same masks from the same seed, kept or recomputed."""
    step = one_step(name, dropout=0.1, **ZOO[name].one_layer)
    truth = run(step, torch.compile)
    found = run(step, compiler("exact", inner="inductor"))
    assert relative_error(found, truth) <= BOUNDS["exact"]
