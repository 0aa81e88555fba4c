"""Tables of levels that are given, by a user or a file, and not fitted: what they must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .levels import Levels
from .widths import check_widths

Numbers = Sequence[float]
MOST_LEVELS = 256


def table_of(borders: Numbers | None, levels: Numbers) -> Levels:
    """Levels from numbers, of any kind of sequence.

    `borders` are the inner ones, ascending, one fewer than `levels`; or with both ends of the
    domain, of which only a first border of 0 counts: then |x| is coded. None stands for codes that
    are drawn, between ascending levels. Raises ValueError for anything else.
    """
    steps = np.array([float(level) for level in levels])
    finite = np.isfinite(steps).all()
    if not 1 <= len(steps) <= MOST_LEVELS or not finite:
        found = f"{len(steps)}{'' if finite else ', not all of them finite'}"
        raise ValueError(f"levels must be 1 to {MOST_LEVELS} finite numbers; got {found}")
    if borders is None:
        _check_ascending("levels that are drawn", steps)
        return Levels(np.empty(0), steps, np.nan, unbiased=True)
    edges = np.array([float(border) for border in borders])
    _check_ascending("borders", edges)
    if len(edges) == len(steps) + 1:
        return Levels(edges[1:-1], steps, np.nan, even=bool(edges[0] >= 0))
    if len(edges) != len(steps) - 1:
        raise ValueError(
            f"borders must be one fewer than the {len(steps)} levels, or one more with the ends of "
            f"the domain; got {len(edges)}"
        )
    return Levels(edges, steps, np.nan)


def _check_ascending(name: str, numbers: np.ndarray) -> None:
    if np.isnan(numbers).any() or np.any(np.diff(numbers) < 0):
        raise ValueError(f"{name} must ascend; got {numbers.tolist()}")


def check_fit(table: Levels, bits: int) -> None:
    """Raise ValueError for bits other than 1 to 8, and for more levels than they tell apart."""
    check_widths((bits,))
    if len(table.levels) > 2**bits:
        raise ValueError(f"{len(table.levels)} levels do not fit {bits} bits")
