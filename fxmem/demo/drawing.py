"""The picture of a demo: loss curves beside bars of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from fxmem.demo.training import Trained
from fxmem.measure import Table
from fxmem.measure.text import MiB

COLOURS = ("#3b6fb6", "#8a8f98", "#8fb3e0", "#1b8a5a", "#e08a1e", "#c23b4b")


def draw(path: Path, trained: Mapping[str, Trained], table: Table) -> None:
    """Write the picture as PNG (1800 × 750 pixels)."""
    with saved_figure(path) as (curves, bars):
        draw_losses(curves, trained, "The same training")
        _draw_memory(bars, table)


@contextlib.contextmanager
def saved_figure(path: Path) -> Iterator[tuple]:
    """Give two axes side by side to draw on; write them to a file afterwards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    both = figure.subplots(1, 2, width_ratios=(1, 1.15))
    yield tuple(both)
    for axes in both:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors="#444444")
    figure.savefig(path)


def draw_losses(axes, trained: Mapping[str, Trained], title: str) -> None:
    """Draw a smoothed loss curve for each training."""
    for colour, (name, result) in zip(COLOURS, trained.items(), strict=False):
        width = max(1, len(result.losses) // 20)
        smooth = [
            _mean(result.losses[max(0, i - width) : i + 1]) for i in range(len(result.losses))
        ]
        label = f"{name}  ({result.held_out:.3f})"
        axes.plot(smooth, color=colour, linewidth=1.6, alpha=0.9, label=label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, nats a byte (running mean)")
    axes.grid(axis="y", alpha=0.25)
    legend = axes.legend(
        frameon=False, loc="upper right", title="(loss on held-out text)", fontsize=9
    )
    legend.get_title().set_fontsize(9)


def _draw_memory(axes, table: Table) -> None:
    names = [row.name for row in table.rows]
    places = range(len(names))
    kept = [row.kept / MiB for row in table.rows]
    peak = [row.peak / MiB for row in table.rows]
    colours = COLOURS[: len(names)]
    axes.barh(places, peak, 0.72, color=colours, alpha=0.28)
    axes.barh(places, kept, 0.42, color=colours)
    for place, row in zip(places, table.rows, strict=True):
        text = f" {row.kept / MiB:.0f} kept, {row.peak / MiB:.0f} peak, {row.times.ratio:.2f}× time"
        axes.text(row.peak / MiB, place, text, va="center", fontsize=9, color="#333333")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(peak) * 1.5)
    axes.set_xlabel("MiB of a training step: kept for backward (dark), peak (light)")
    axes.set_title("A fraction of the memory", loc="left", fontweight="bold")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
