"""The plans of the graphs compiled last in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fxmem.plan import Plan, Report

Plans = list[Plan | None]  # None: a graph of which no plan was made

_plans: deque[Plan | None] = deque(maxlen=256)
# Where plans go: each thread's compilation has its own, until it has succeeded.
_place: ContextVar[Plans | deque[Plan | None]] = ContextVar("fxmem_place", default=_plans)


def record(plan: Plan) -> None:
    """Remember the plan of a graph that is being compiled, or has just been."""
    _place.get().append(plan)


@contextmanager
def compiling(trains: bool) -> Iterator[None]:
    """Record nothing of a compilation that fails, and that there is no plan of a cached one.

    Args:
        trains: whether there would be one otherwise.
    """
    from torch._dynamo.utils import counters

    made: Plans = []
    outer, hits = _place.get(), counters["aot_autograd"]["autograd_cache_hit"]
    _place.set(made)
    try:
        yield
    finally:
        _place.set(outer)
    if trains and not made and counters["aot_autograd"]["autograd_cache_hit"] > hits:
        made.append(None)
    outer.extend(made)


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
