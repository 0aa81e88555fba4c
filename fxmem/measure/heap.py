"""Bytes as torch's allocators hand them out: the one witness that every implementation has.

Every block that torch allocates or frees is an event of the profiler, for eager operators, native
ones and what Inductor generated alike. Not seen is what a library takes from malloc itself, such as
the scratch space of oneDNN and MKL, nor what another thread of the program allocates.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_MARK, _BODY = "fxmem.measure", "fxmem.measure.body"


def peak_bytes(step: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the most bytes that ``step`` holds at once, over those allocated when it begins.

    ``step`` runs three times (CPU) or twice (CUDA): the first warms up, the last is measured. On
    CPU it has to compute in the thread that calls it, and RuntimeError is raised while a profiler
    runs.
    """
    step()
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before

    # The profiler does not know the size of a block that it did not see allocated: a step that
    # frees what the step before it made is measured rightly only the second time.
    def run() -> None:
        step()
        with record_function(_MARK):
            step()

    seen = events(run)
    last = seen[seen.index(_MARK) + 1 :]
    return max(accumulate((nbytes for _, nbytes in last), initial=0))


def events(body: Callable[[], Any]) -> list[Any]:
    """Run ``body``; return (address, bytes) of what it allocates and, negative, frees, in order.

    A mark set by ``record_function`` stands in the list where it began. Raises RuntimeError while
    a profiler runs.
    """
    if torch.autograd._profiler_enabled():
        # A second session would end the first.
        raise RuntimeError(
            "memory is measured by torch's profiler, which is running already: measure neither "
            "inside torch.profiler.profile nor inside what kept() or peak_bytes() is given"
        )
    # torch 2.11 warns of what a second cycle would clear, unless that is to be kept.
    options = {"profile_memory": True, "acc_events": True}
    profiler = profile(activities=[ProfilerActivity.CPU], **options)
    with _quiet():
        profiler.start()
    try:
        # Outside any range the tree leaves out what happens to a GPU's memory: most frees.
        with record_function(_BODY):
            body()
    finally:
        with _quiet():
            profiler.stop()
    found = []
    pending = list(profiler.profiler.kineto_results.experimental_event_tree())
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.name == "[memory]":
            block = event.extra_fields
            found.append((event.start_time_ns, (block.ptr, block.alloc_size)))
        elif event.name == _MARK:
            found.append((event.start_time_ns, _MARK))
    return [what for _, what in sorted(found, key=lambda item: item[0])]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler's own two lines off the terminal; they are written past ``sys.stderr``."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
