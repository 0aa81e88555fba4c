"""The plans of the graphs compiled last in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from fxmem.plan import Plan, Report

_plans: deque[Plan | None] = deque(maxlen=256)  # None: a graph of which no plan was made


def record(plan: Plan | None) -> None:
    """Remember the plan of a graph that has just been compiled."""
    _plans.append(plan)


@contextmanager
def compiling(trains: bool) -> Iterator[None]:
    """Forget what is recorded of a compilation that fails; note where torch's cache spares one."""
    from torch._dynamo.utils import counters

    before, hits = list(_plans), counters["aot_autograd"]["autograd_cache_hit"]
    try:
        yield
    except BaseException:
        _plans.clear()
        _plans.extend(before)
        raise
    if trains and counters["aot_autograd"]["autograd_cache_hit"] > hits:
        record(None)


def last_report(graphs: int = 1) -> Report:
    """Return the report of the graphs compiled last.

    Args:
        graphs: how many; a model with n graph breaks compiles n + 1 of them.

    Raises:
        ValueError: if `graphs` is less than 1.
        LookupError: if nothing was compiled in this process, or one of these graphs came from
            torch's cache on disk (`fxmem.explain` reports on a model in any case).
    """
    if graphs < 1:
        raise ValueError(f"graphs must be at least 1, got {graphs}")
    last = list(_plans)[-graphs:]
    if not last:
        raise LookupError(
            "no graph was compiled with backend='fxmem' in this process; "
            "fxmem.explain(model, *inputs) gives a report"
        )
    if cached := last.count(None):
        raise LookupError(
            f"of the last {len(last)} graphs {cached} came from torch's compile cache, with no "
            "plan: fxmem.explain(model, *inputs) gives a report, and "
            "torch._functorch.config.enable_autograd_cache = False has graphs compiled anew"
        )
    return Report(tuple(last))
