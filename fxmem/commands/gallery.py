"""Draw every activation's slope, its few-bit codes, and the error of the slope from the output."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from fxmem.activations.calculus import curve, kinks, slope_curve, step_slopes, turning_points, value
from fxmem.activations.inverse import branches, output_curve
from fxmem.activations.store import levels
from fxmem.activations.table import TABLE, Activation
from fxmem.commands.drawing import (
    COLOURS,
    GREY,
    INK,
    REACH,
    check_picture,
    figure,
    panel,
    plain,
    points_to,
)

COLUMNS = 5
WIDTHS = (1, 2, 3)
FLOOR = 1e-9  # where an error of nothing is drawn
CENTRES, DENSE = 451, 64  # points where an error is drawn, and around each, where it is looked for
TITLE = "What is kept of an activation's slope"
CAPTION = (
    "Numbers: root mean square error of the slope in 1, 2 and 3 bits, for normally distributed x.\n"
    "Below: error of the slope that is had from y = f(x) in float32, and whether a bit beside y is "
    "needed. Gated pairs (swiglu, geglu) keep their two inputs and are exact."
)


def main(arguments: list[str]) -> int:
    """Write the picture; return 0, or 2 where it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m fxmem gallery", description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it, as docs/activations.png")
    path = parser.parse_args(arguments).picture
    try:
        check_picture(path)
        draw([row for row in TABLE.values() if not row.gate], path)
    except (ValueError, OSError, ImportError) as error:
        print(f"fxmem gallery: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def draw(rows: list[Activation], path: Path) -> None:
    """Write one panel a row: its slope above the error of the slope from the output."""
    lines = math.ceil(len(rows) / COLUMNS)
    made = figure(3.6 * COLUMNS, 3.3 * lines + 1)
    grid = made.add_gridspec(3 * lines, COLUMNS, height_ratios=(9, 3, 0.4) * lines)
    for at, row in enumerate(rows):
        line, column = divmod(at, COLUMNS)
        above, below = (made.add_subplot(grid[3 * line + part, column]) for part in (0, 1))
        reach = max([REACH, *(1.25 * abs(k) for k in kinks(row) if abs(k) < 2 * REACH)])
        _slope(above, row, points_to(reach))
        _error(below, row, points_to(reach, CENTRES))
    _legend(made)
    made.get_layout_engine().set(w_pad=0.1)
    made.savefig(path, dpi=100)


def _slope(axes, row: Activation, points: np.ndarray) -> None:
    tables = {} if step_slopes(row) else {bits: levels(row, bits) for bits in WIDTHS}
    panel(axes, points, slope_curve(row), tables)
    if not tables:
        slopes = slope_curve(row)(points)
        axes.fill_between(points, slopes, color=COLOURS[1], alpha=0.25, linewidth=0)
    axes.tick_params(labelbottom=False)
    axes.set_title(row.name, loc="left", fontweight="bold", color=INK, fontsize=12)
    notes = [(f"{math.sqrt(t.error):.3f}", bits) for bits, t in tables.items()]
    notes = notes or [("1 bit, exact", 1)]
    for place, (text, bits) in enumerate(reversed(notes)):
        style = {"ha": "right", "va": "bottom", "fontsize": 9.5, "color": COLOURS[bits]}
        axes.annotate(text, (1 - 0.19 * place, 1.03), xycoords="axes fraction", **style)


def _error(axes, row: Activation, points: np.ndarray) -> None:
    plain(axes, points)
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 1e-2)
    axes.set_yticks([FLOOR, 1e-6, 1e-3], ["0", "10⁻⁶", "10⁻³"])
    axes.minorticks_off()
    if branches(row) == 0:
        note = "the output does not determine the slope"
    else:
        errors = output_errors(row, points)
        axes.fill_between(points, errors, FLOOR, color=INK, alpha=0.5, linewidth=0)
        kept = "y and a bit" if branches(row) == 2 else "y"
        most = f"at most {errors.max():.0e}" if errors.max() > FLOOR else "exact"
        note = f"from {kept}: {most}"
    style = {"ha": "right", "va": "top", "fontsize": 8.5, "color": GREY}
    axes.text(0.99, 0.95, note, transform=axes.transAxes, **style)


def output_errors(row: Activation, points: np.ndarray) -> np.ndarray:
    """The largest error of the slope from the float32 output around each point.

    It is relative to the larger of 1 and the slope, and no less than `FLOOR`.
    """
    x = np.linspace(points[0], points[-1], len(points) * DENSE, dtype=np.float32)
    y = curve(value(row), row, dtype=np.float32)(x)
    found = output_curve(row, dtype=np.float32)(y, x > (*turning_points(row), 0.0)[0])
    slopes = slope_curve(row)(x)
    errors = np.abs(found - slopes) / np.maximum(1, np.abs(slopes))
    return np.maximum(errors.reshape(-1, DENSE).max(axis=1), FLOOR)


def _legend(made) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = [Line2D([], [], color=INK, linewidth=2, label="slope")]
    lines += [
        Line2D([], [], color=COLOURS[bits], linewidth=1.6, label=f"{bits} bit{'s' * (bits > 1)}")
        for bits in WIDTHS
    ]
    lines.append(Patch(color=INK, alpha=0.5, label="error from the output"))
    made.suptitle(TITLE, x=0.01, ha="left", fontsize=17, fontweight="bold", color=INK)
    made.legend(
        handles=lines, loc="outside upper right", ncols=len(lines), frameon=False, fontsize=12
    )
    made.supxlabel(CAPTION, x=0.01, ha="left", fontsize=11, color=GREY)
