"""Slopes with the steps that codes make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fxmem.activations.calculus import Curve
from fxmem.activations.levels import Levels
from fxmem.commands.files import check_writable
from fxmem.commands.source import Source

REACH = 4.5
INK, GREY, PALE = "#22262e", "#5a6069", "#c4c8ce"
# From few bits to many: warm and loud, then calm.
COLOURS = {1: "#e08a1e", 2: "#1b8a5a", 3: "#3b6fb6"}
MORE = "#7b5ea7"


def figure(width: float, height: float):
    """A figure for files, in inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(made)
    return made


def check_picture(path: Path) -> None:
    """Raise ValueError for a picture of an unknown kind, OSError for one that cannot be written."""
    known = figure(1, 1).canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".")
    if kind.lower() not in known:
        ends = ", ".join(f".{name}" for name in sorted(known))
        raise ValueError(f"Format {kind!r} is not supported: {path} must end in one of {ends}")
    check_writable(path)


def draw_one(path: Path, of: Source, tables: Mapping[int, Levels]) -> None:
    """Write the picture of one function and its tables."""
    made = figure(8, 4.5)
    axes = made.subplots()
    panel(axes, points_to(REACH), of.slope, tables)
    axes.set_title(f"The slope of {of.name}", loc="left", fontweight="bold", color=INK)
    axes.set_xlabel("x")
    axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
    made.savefig(path, dpi=150)


def points_to(reach: float, count: int = 3601) -> np.ndarray:
    """Points of x from -reach to reach."""
    return np.linspace(-reach, reach, count)


def panel(axes, points: np.ndarray, slope: Curve, tables: Mapping[int, Levels]) -> None:
    """Draw one slope, and the steps of each table under it; the error of the finest is filled."""
    slopes = slope(points)
    for bits, table in sorted(tables.items(), reverse=True):
        colour = COLOURS.get(bits, MORE)
        label = f"{bits} bit{'s' if bits > 1 else ''}"
        if table.unbiased:
            axes.hlines(
                table.levels, *points[[0, -1]], colour, linewidth=0.9, label=f"{label}, drawn"
            )
            continue
        steps = steps_of(table, points)
        axes.plot(points, steps, color=colour, linewidth=1.2, label=label)
        if bits == max(tables):
            axes.fill_between(points, slopes, steps, color=colour, alpha=0.25, linewidth=0)
    axes.plot(points, slopes, color=INK, linewidth=1.8, label="slope")
    plain(axes, points)


def steps_of(table: Levels, points: np.ndarray) -> np.ndarray:
    """The level at each point."""
    x = np.abs(points) if table.even else points
    return table.levels[np.searchsorted(table.borders, x)]


def plain(axes, points: np.ndarray) -> None:
    """Take away what is no data, and show x as far as there are points."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=GREY, labelsize=8, length=3, color=PALE)
    axes.grid(axis="y", alpha=0.2, linewidth=0.6)
    axes.set_xlim(points[0], points[-1])
