"""Batches and lengths that change: no wrong result, and no graph more than Dynamo makes anyway."""

import pytest
import torch
from torch._dynamo.utils import counters

from .decoder import Decoder
from .training import (
    BOUNDS,
    PRESETS,
    Compiler,
    Gradients,
    compiler,
    eager,
    encoded,
    gradients,
    relative_error,
    run,
)
from .zoo import tokens


def shapes(*sizes: tuple[int, int], layers: int = 2):
    """Return the scenario: one backward for each (batch, length)."""

    def scenario(compile: Compiler) -> Gradients:
        model = Decoder(layers)
        step, found = compile(model), {}
        for size in sizes:
            model.zero_grad()
            step(**tokens(*size)).backward()
            found |= {f"{size} {name}": g for name, g in gradients(model).items()}
        return found

    return scenario


EPOCH = shapes((4, 48), (4, 48), (3, 48))
SIZES = (4, 48), (3, 40), (5, 48), (2, 33), (4, 48)
RAGGED = shapes(*SIZES)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "scenario, dynamic, graphs",
    [(EPOCH, None, 2), (RAGGED, None, 2), (RAGGED, True, 1)],
    ids=["last-batch", "ragged", "dynamic"],
)
def test_dynamic(scenario, dynamic, graphs, preset):
    """As many graphs as Dynamo makes anyway: fxmem adds no guard, and no wrong result."""
    truth = run(scenario, eager)
    counters.clear()
    found = run(scenario, compiler(preset, dynamic=dynamic))
    assert counters["stats"]["unique_graphs"] == graphs
    assert relative_error(found, truth) <= BOUNDS[preset]
    assert bool(encoded()) == (preset != "exact")


def test_dynamic_compiled():
    """One layer has all that Inductor makes code of."""
    ragged = shapes(*SIZES, layers=1)
    truth = run(ragged, torch.compile(dynamic=True))
    counters.clear()
    found = run(ragged, compiler("balanced", inner="inductor", dynamic=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert encoded()
    assert relative_error(found, truth) <= BOUNDS["balanced"]
