"""The ruler where it is used otherwise: outputs of any kind, threads, profilers, nothing at all."""

import threading
from collections import deque
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fxmem import measure

from .sizes import FLOAT, HIDDEN


@dataclass(slots=True)
class Output:
    loss: object
    others: object = None


def nested(value, depth):
    return value if depth == 0 else [nested(value, depth - 1)]


@pytest.mark.parametrize(
    "wrap",
    [Output, lambda y: Output(None, Output(y)), lambda y: nested(y, 9), lambda y: deque([y])],
    ids=["slots", "slots within slots", "nine lists", "deque"],
)
def test_outputs_are_found_wherever_they_are(mlp, x, wrap):
    # Of each the output itself, which no node keeps, is not counted.
    assert measure.kept(lambda: wrap(mlp(x))).nbytes == 2 * HIDDEN


def test_what_an_output_holds_out_of_sight_is_kept(mlp, x):
    def forward():
        loss = mlp(x).sum()
        return lambda: loss

    kept = measure.kept(forward)
    assert kept.nbytes == kept.unreached == 2 * HIDDEN + FLOAT


def test_another_threads_forward_is_refused(mlp, x):
    def forward():
        found = []
        thread = threading.Thread(target=lambda: found.append(mlp(x)))
        thread.start()
        thread.join()
        return found

    with pytest.raises(RuntimeError, match="nothing in the thread that called it"):
        measure.kept(forward)
    assert measure.kept(lambda: mlp(x[:0])).nbytes == 0


@pytest.mark.parametrize("ruler", [measure.kept, measure.peak_bytes])
def test_a_running_profiler_is_left_running(mlp, x, ruler):
    def forward():
        return mlp(x).sum()

    # torch 2.11 warns of what a second cycle would clear, unless that is to be kept.
    options = {"activities": [torch.profiler.ProfilerActivity.CPU], "acc_events": True}
    with torch.profiler.profile(**options) as profiler:
        with pytest.raises(RuntimeError, match="torch's profiler, which is running already"):
            ruler(forward)
        with torch.profiler.record_function("afterwards"):
            forward()
    assert "afterwards" in {event.name for event in profiler.events()}
    with pytest.raises(RuntimeError, match="nor inside what kept"):
        measure.kept(lambda: ruler(forward))
    assert measure.kept(forward).nbytes == 2 * HIDDEN


def test_a_module_without_parameters(x):
    x = x.requires_grad_()
    act = nn.GELU()
    (row,) = measure.measure({"act": measure.Variant(act, lambda: act(x + 0).sum())}, 1).rows
    assert row.kept == x.nbytes and row.peak > 0


def test_nothing_to_measure_is_refused(mlp, x):
    variant = measure.Variant(mlp, lambda: mlp(x).sum())
    for ruler, given in ((measure.measure, variant), (measure.step_times, variant.step)):
        with pytest.raises(ValueError, match="there is nothing to measure"):
            ruler({})
        with pytest.raises(ValueError, match="rounds must be at least 1; got 0"):
            ruler({"a": given}, rounds=0)


def test_zeros_that_have_no_memory(mlp, x):
    """Forward mode makes such tangents of parameters."""
    tangent = torch.ones_like(x)
    found = measure.kept(lambda: sum(torch.func.jvp(mlp, (x,), (tangent,))))
    assert found.nbytes >= HIDDEN
