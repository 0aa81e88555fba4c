"""The plans of the graphs compiled last in this process."""

from __future__ import annotations

from collections import deque

from fxmem.plan import Plan, Report

_plans: deque[Plan] = deque(maxlen=256)


def record(plan: Plan) -> None:
    """Remember the plan of a graph that has just been compiled."""
    _plans.append(plan)


def last_report(graphs: int = 1) -> Report:
    """Return the report of the graphs compiled last.

    Args:
        graphs: how many; a model with n graph breaks compiles n + 1 of them.

    Raises:
        ValueError: if `graphs` is less than 1.
        LookupError: if nothing was compiled in this process (a compiled graph that came from
            torch's cache on disk was not: `fxmem.explain` reports on a model in any case).
    """
    if graphs < 1:
        raise ValueError(f"graphs must be at least 1, got {graphs}")
    if not _plans:
        raise LookupError(
            "no graph was compiled with backend='fxmem' in this process "
            "(or all came from torch's compile cache); fxmem.explain(model, *inputs) gives a report"
        )
    return Report(tuple(list(_plans)[-graphs:]))
