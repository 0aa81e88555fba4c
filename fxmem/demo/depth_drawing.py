"""The picture of the reversible demo: loss curves by depth beside memory against depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fxmem.demo.drawing import COLOURS, draw_losses, saved_figure
from fxmem.demo.training import Trained
from fxmem.measure import Table
from fxmem.measure.text import MiB


def draw_depths(path: Path, found: Mapping[int, tuple[Table, Trained]]) -> None:
    """Write the picture as PNG (1800 × 750 pixels)."""
    with saved_figure(path) as (losses, memory):
        trained = {f"{depth} layers": result for depth, (_, result) in found.items()}
        draw_losses(losses, trained, "The same text, deeper and deeper")
        _draw_memory(memory, {depth: table for depth, (table, _) in found.items()})


def _draw_memory(axes, tables: Mapping[int, Table]) -> None:
    names = [row.name for row in next(iter(tables.values())).rows]
    for i, (name, colour) in enumerate(zip(names, COLOURS[1:], strict=False)):
        rows = [table.rows[i] for table in tables.values()]
        kept, peak = ([getattr(row, key) / MiB for row in rows] for key in ("kept", "peak"))
        axes.plot(list(tables), kept, color=colour, marker="o", linewidth=1.8, label=name)
        axes.plot(list(tables), peak, color=colour, linestyle=":", linewidth=1.4)
        axes.annotate(
            f" {kept[-1]:.1f}", (list(tables)[-1], kept[-1]), color=colour, va="center", fontsize=9
        )
    axes.set_title("Memory does not grow with depth", loc="left", fontweight="bold")
    axes.set_xlabel("layers")
    axes.set_xticks(list(tables))
    axes.set_xlim(0, max(tables) * 1.12)
    axes.set_ylabel("MiB of a step: kept for backward (solid), peak (dotted)")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
