"""How the ruler prints: columns that line up."""

from __future__ import annotations

from collections.abc import Sequence

MiB = 2**20


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return a line a row, with every column set right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)
