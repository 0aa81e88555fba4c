"""Fit the best few-bit levels to an activation's slope; print, keep and draw them."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fxmem.activations import store as files
from fxmem.activations.levels import Levels, fit_widths
from fxmem.activations.unbiased import fit_unbiased
from fxmem.activations.weight import NAMED, Weight
from fxmem.activations.widths import WIDTHS
from fxmem.commands.files import check_writable
from fxmem.commands.source import Source, source
from fxmem.functional.errors import squared_error
from fxmem.measure.text import aligned

Tables = dict[int, Levels]
REAL = "fiu"  # kinds of numpy's dtypes


def main(arguments: list[str]) -> int:
    """Run the command; return 0, or 2 where an argument is wrong."""
    args = parse(arguments)
    try:
        check_files(args)
        of, weight = source(args.function), weight_of(args.weight)
        tables = fitted(of, args.bits, weight, args.unbiased)
        for table in tables.values():
            print(report(of, table, weight, args.weight), end="\n\n")
        if args.output:
            merge(args.output, of.name, tables)
            print(f"wrote {args.output}: fxmem.functional.store.load({str(args.output)!r})")
        if args.plot:
            from fxmem.commands.drawing import draw_one

            draw_one(args.plot, of, tables)
            print(f"wrote {args.plot}")
    except (ValueError, OSError, ImportError) as error:
        print(f"fxmem quantize: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fxmem quantize", description=__doc__)
    parser.add_argument("function", help="gelu, …, or your own module:function")
    widths = {"type": int, "nargs": "+", "choices": WIDTHS, "metavar": "BITS"}
    parser.add_argument("--bits", default=[3], help="1 to 8 (default: 3)", **widths)
    parser.add_argument(
        "--weight",
        default="normal",
        help="density of inputs: normal (default), uniform, or FILE.npy with inputs",
    )
    parser.add_argument("--unbiased", action="store_true", help="levels for codes that are drawn")
    parser.add_argument("-o", "--output", type=Path, help=".npz file, to which tables are added")
    parser.add_argument("--plot", type=Path, help="picture (.png, .svg, .pdf)")
    return parser.parse_args(arguments)


def check_files(args: argparse.Namespace) -> None:
    """Raise ValueError or OSError where what is asked for cannot be written."""
    if args.output:
        if not args.output.name.endswith(".npz"):
            raise ValueError(f"{args.output} must end in .npz")
        tables_in(args.output)
        check_writable(args.output)
    if args.plot:
        from fxmem.commands.drawing import check_picture

        check_picture(args.plot)


def weight_of(text: str) -> Weight:
    """A density by its name, or the histogram of the numbers in a file.

    Raises OSError where there is no such file, and ValueError where it has no such numbers.
    """
    if text in NAMED:
        return NAMED[text]
    try:
        inputs = np.load(text)
    except (ValueError, EOFError, BadZipFile):
        inputs = None
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind not in REAL:
        raise ValueError(f"{text} is no .npy file of real numbers")
    try:
        return Weight.samples(inputs)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def fitted(of: Source, bits: list[int], weight: Weight, unbiased: bool) -> Tables:
    """The best levels for each width."""
    if unbiased:
        return fit_unbiased(of.slope, bits, weight, breaks=of.breaks)
    return fit_widths(of.value, of.slope, bits, weight, even=of.even, breaks=of.breaks)


def report(of: Source, table: Levels, weight: Weight, name: str) -> str:
    """The levels between their borders, and their errors beside those of the uniform optimum."""
    drawn = ", drawn" if table.unbiased else ""
    plural = "s" if table.bits > 1 else ""
    head = f"{of.name}, {table.bits} bit{plural}{drawn}, best for {name} inputs"
    uniform = fitted(of, [table.bits], NAMED["uniform"], table.unbiased)[table.bits]
    rows = [("", f"rms error, {name} inputs", "squared error on [-10, 10]")]
    for label, levels in (("these levels", table), ("best for uniform inputs", uniform)):
        rms = math.sqrt(squared_error(of.slope, levels, weight, of.breaks) / _mass(weight))
        square = squared_error(of.slope, levels, "uniform", of.breaks)
        rows.append((label, f"{rms:.4f}", f"{square:.4f}"))
    return "\n\n".join([head, _intervals(table), aligned(rows)])


def _mass(weight: Weight) -> float:
    one = Levels(np.empty(0), np.ones(1), 0.0)
    return squared_error(np.zeros_like, one, weight)


def _intervals(table: Levels) -> str:
    if table.unbiased:
        return "\n".join(f"{level:10.6f}" for level in table.levels)
    ends = ["", *(f"{round(border, 6) + 0.0:.6f}" for border in table.borders), ""]
    x = "|x|" if table.even else "x"
    rows = [("slope", "from", "", "to")]
    for level, low, high in zip(table.levels, ends, ends[1:], strict=False):
        relation = f"{'<' if low else ' '} {x} {'<=' if high else '  '}"
        rows.append((f"{level:.6f}", low, relation, high))
    return aligned(rows)


def merge(path: Path, name: str, tables: Tables) -> None:
    """Write tables to a file, beside those that it has."""
    added = {(name, bits): table for bits, table in tables.items()}
    files.save(path, {**tables_in(path), **added})


def tables_in(path: Path) -> files.Tables:
    """The tables of a file, none where there is no file. Raises ValueError if it has none."""
    known = files.load(path) if path.exists() else {}
    if path.exists() and not known:
        raise ValueError(f"{path} has no tables of levels, and is left as it is")
    return known
