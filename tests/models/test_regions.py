"""What the user said about recomputation and regions is respected; random numbers stay equal."""

from functools import partial

import pytest
import torch
from passes.tools import TestBackend
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import fxmem

from .decoder import Block, Decoder
from .training import (
    BOUNDS,
    PRESETS,
    SMALL,
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
from .zoo import SIZE, tokens

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def keep_products(context, op, *args, **kwargs):
    """The policy of selective checkpointing: products are kept, all else is recomputed."""
    kept = op in PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.MUST_RECOMPUTE


def checkpointed(block: Block, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(block, x, use_reentrant=False)


def selective(block: Block, x: torch.Tensor) -> torch.Tensor:
    contexts = partial(create_selective_checkpoint_contexts, keep_products)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@torch.compiler.nested_compile_region
def region(block: Block, x: torch.Tensor) -> torch.Tensor:
    return block(x)


def nested(block: Block, x: torch.Tensor) -> torch.Tensor:
    return region(block, x)


def training(call, compile: Compiler, **config) -> Gradients:
    model, batch = Decoder(call=call, **config), tokens()
    compile(model)(**batch).backward()
    return gradients(model)


CALLS = (checkpointed, selective, nested)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_regions_as_eager(call, preset):
    """Dropout is on, inside the regions: recomputing one must draw its masks again."""
    scenario = partial(training, call)
    truth = run(scenario, eager)
    assert relative_error(run(scenario, compiler(preset)), truth) <= BOUNDS[preset]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_regions_as_inductor(call):
    """Compiled: a region's own masks, kept as seeds or recomputed, are Inductor's."""
    scenario = partial(training, call, layers=2)
    truth = run(scenario, torch.compile)
    found = run(scenario, compiler("balanced", inner="inductor"))
    assert relative_error(found, truth) <= BOUNDS["balanced"]


def kept(call, preset: str) -> tuple[TestBackend, list]:
    """Return the backend and the residuals, inside blocks, of a decoder without dropout."""
    backend = TestBackend(options(preset))
    run(partial(training, call, dropout=0.0), lambda f: torch.compile(f, backend=backend))
    entries = [entry for plan in backend.plans for entry in plan.entries]
    return backend, [e for e in entries if "blocks" in e.residual.module]


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpoint_keeps_one_input_a_block(preset):
    """A checkpointed block keeps what enters it: the stream, and nothing of its inside."""
    backend, inside = kept(checkpointed, preset)
    stream = 4 * 48 * SIZE * 4
    assert len([e for e in inside if e.residual.nbytes >= stream]) <= 1
    assert sum(plan.after for plan in backend.plans) <= backend.inductor


@pytest.mark.parametrize("preset", PRESETS)
def test_selective_checkpoint_keeps_products(preset):
    """The products are kept as the policy says, encoded where the preset says so."""
    _, inside = kept(selective, preset)
    big = [e for e in inside if e.residual.nbytes >= SMALL]
    assert {e.residual.op for e in big} == {"aten.addmm"}
    assert all(isinstance(e, fxmem.Site) for e in big) == (preset != "exact")


DROPPED = {
    "seeds": {},
    "nothing recomputed": {"rules": {"seeds": False, "remat": False}},
    "budget": {"budget": 0.2},
}


@pytest.mark.parametrize("more", DROPPED.values(), ids=DROPPED)
@pytest.mark.parametrize("inner", ("aot_eager", "inductor"))
def test_dropout_draws_the_same_masks(inner, more):
    """Whatever is recomputed: a mask that differs in one element in a thousand shows at 1e-2."""
    scenario = partial(training, nn.Module.__call__, layers=1, dropout=0.5)
    truth = run(scenario, eager if inner == "aot_eager" else torch.compile)
    found = run(scenario, compiler("exact", inner=inner, **more))
    assert relative_error(found, truth) <= BOUNDS["exact"]


def test_nested_regions_encode_their_own():
    """Outputs of a region may share memory: encoding them outside gave wrong gradients."""
    run(partial(training, nested), compiler("balanced"))
    assert encoded(graphs=2)
    entries = fxmem.last_report(graphs=2).entries
    assert not any(isinstance(e, fxmem.Site) and "invoke" in e.residual.op for e in entries)
