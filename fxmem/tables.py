"""Residuals laid out for reading: lines of text in columns, rows of HTML, and plain data."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxmem.plan import Refusal, Site

    Entry = Site | Refusal

HEAD = ("module", "op", "shape", "dtype", "what was done", "KiB", "guarantee")


def data(entry: Entry) -> dict[str, Any]:
    """Return one flat dict."""
    done = {
        "kind": type(entry).__name__.lower(),
        "rule": entry.rule,
        "action": entry.action,
        "kept": entry.nbytes,
    }
    return {**asdict(entry.residual), **done, "guarantee": entry.guarantee}


def lines(entries: Sequence[Entry]) -> list[str]:
    """Return a line for all that are alike; what keeps most comes first."""
    alike: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        module, *others = _cells(entry)
        alike.setdefault((re.sub(r"\d+", "*", module), *others), []).append(entry)
    groups = sorted(alike.values(), key=lambda group: -sum(entry.nbytes for entry in group))
    cells = [_cells(*group) for group in groups]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def counted(notes: Sequence[str]) -> list[str]:
    """Return one note for all that differ in the number of a node's name alone, and how many."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(re.sub(r"^(\w+?)_\d+:", r"\1:", note), []).append(note)
    return [same[0] if len(same) == 1 else f"{len(same)} x {note}" for note, same in alike.items()]


def _cells(entry: Entry, *others: Entry) -> tuple[str, ...]:
    """Return a line's columns; `others` are alike but for the numbers in their modules' paths."""
    residual = entry.residual
    paths = {e.residual.module for e in (entry, *others)}
    module = residual.module if len(paths) == 1 else re.sub(r"\d+", "*", residual.module)
    count = f"{1 + len(others)} x " if others else ""
    size = f"{count}{_kib(residual.nbytes)} -> {_kib(entry.nbytes)} KiB"
    kind = f"{residual.dtype}{list(residual.shape)}".replace("'", "")
    return (module, residual.op, kind, size, entry.guarantee, entry.action)


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:.1f}"


def html_row(entry: Entry, top: int) -> str:
    """Return a row with a bar for the bytes before and after; `top` bytes are the longest."""
    before, after = entry.residual.nbytes, entry.nbytes
    bars = "".join(
        f"<div style='height:5px;width:{1 + 160 * size // top}px;background:{color}'></div>"
        for size, color in ((before, "#c9ced6"), (after, "#2f7ed8"))
    )
    residual = entry.residual
    shape = " × ".join(map(str, residual.shape))
    cells = (residual.module, residual.op, shape, residual.dtype, entry.action)
    text = "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in cells)
    size = f"{_kib(before)} → {_kib(after)}"
    return f"<tr>{text}<td style='text-align:left'>{size}{bars}</td><td>{entry.guarantee}</td></tr>"
