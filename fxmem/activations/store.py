"""Tables of levels: those that fxmem ships, a user's own, and their files.

A file holds for every function and width two arrays, as FewBit's do: `{name}{bits:02d}-borders`,
2^bits + 1 borders of which the outermost are the ends of the domain, and `{name}{bits:02d}-levels`.
Where borders begin at 0 the derivative is even and |x| is coded; where there are none codes are
drawn. `{name}{bits:02d}-error` is fxmem's own addition.

    python -m fxmem.activations.store

fits everything that is shipped anew.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from . import fits
from .calculus import is_even, kinks, slope_curve, step_slopes, value_curve
from .given import check_fit, table_of
from .inverse import fit_now
from .levels import Levels, fit_widths
from .table import TABLE, Activation
from .unbiased import fit_unbiased
from .weight import Weight
from .widths import WIDTHS, check_widths

END = 100.0  # FewBit's end of the domain, where no border lies beyond it
KEY = re.compile(r"(\w+?)(\d\d)-levels")
# Weight and kind of the levels in each shipped file.
SHIPPED = {"normal": ("normal", False), "uniform": ("uniform", False), "unbiased": ("normal", True)}

Tables = Mapping[tuple[str, int], Levels]


def levels(
    activation: Activation | str,
    bits: int,
    weight: Weight | str = "normal",
    *,
    parameters: Sequence[float] | None = None,
    unbiased: bool = False,
) -> Levels:
    """The best 2^bits levels for an activation: shipped where they are, else fitted now.

    Raises KeyError for an unknown name and ValueError for bits other than 1 to 8, for an unknown
    weight, and for a gated row or a piecewise linear one, whose codes are exact without levels.
    """
    check_widths((bits,))
    row = TABLE[activation] if isinstance(activation, str) else activation
    values = row.defaults if parameters is None else tuple(map(float, parameters))
    if values == row.defaults and row == TABLE.get(row.name):
        for file, kind in SHIPPED.items():
            if kind == (weight, unbiased) and (row.name, bits) in _shipped(file):
                return _shipped(file)[row.name, bits]
    return fit_row(row, (bits,), weight, values, unbiased)[bits]


@cache
def fit_row(
    row: Activation,
    widths: tuple[int, ...] = tuple(WIDTHS),
    weight: Weight | str = "normal",
    parameters: tuple[float, ...] | None = None,
    unbiased: bool = False,
) -> dict[int, Levels]:
    """Levels of `row` for each width, fitted now; see `levels`."""
    if row.gate or step_slopes(row):
        why = "gated" if row.gate else "piecewise linear"
        raise ValueError(f"{row.name} is {why}: no levels are fitted to it")
    slope, breaks = slope_curve(row, parameters), kinks(row, parameters)
    if unbiased:
        return fit_unbiased(slope, widths, weight, breaks=breaks)
    f, even = value_curve(row, parameters), is_even(row, parameters)
    return fit_widths(f, slope, widths, weight, even=even, breaks=breaks)


def with_ends(table: Levels) -> np.ndarray:
    """The borders of a table with both ends of the domain, beyond all of them; none if drawn."""
    if table.unbiased:
        return table.borders
    end = max(END, 2 * np.abs(table.borders).max(initial=0.0))
    return np.concatenate([[0.0 if table.even else -end], table.borders, [end]])


def save(path: Path | str, tables: Tables) -> None:
    """Write levels by (name, bits) to an .npz file."""
    arrays = {}
    for (name, bits), table in tables.items():
        key = f"{name}{bits:02d}"
        arrays |= {f"{key}-borders": with_ends(table), f"{key}-levels": table.levels}
        arrays[f"{key}-error"] = np.float64(table.error)
    np.savez_compressed(path, **arrays)


def load(path: Path | str) -> dict[tuple[str, int], Levels]:
    """Read what `save` or FewBit wrote.

    Raises ValueError for a file of another kind, and for tables that `fxmem.functional.store.add`
    would refuse.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (ValueError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no .npz file of tables of levels") from error
    keys = [match.groups() for match in map(KEY.fullmatch, arrays) if match]
    return {(name, int(bits)): _read(arrays, name, bits) for name, bits in keys}


def _read(arrays: Mapping[str, np.ndarray], name: str, bits: str) -> Levels:
    key = f"{name}{bits}"
    found = _numbers(arrays, f"{key}-levels", 1)
    if f"{key}-borders" not in arrays:
        raise ValueError(f"{key}-levels has no {key}-borders beside it")
    borders = _numbers(arrays, f"{key}-borders", 1)
    if len(borders) not in (0, len(found) + 1):
        raise ValueError(
            f"{key}-borders must be {len(found) + 1} numbers, two more than are inside"
        )
    try:
        table = table_of(borders if len(borders) else None, found)
        check_fit(table, int(bits))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    error = _numbers(arrays, f"{key}-error", 0) if f"{key}-error" in arrays else np.nan
    return replace(table, error=float(error))


def _numbers(arrays: Mapping[str, np.ndarray], key: str, dimensions: int) -> np.ndarray:
    """An array of real numbers. Raises ValueError for one of another kind or shape."""
    found = arrays[key]
    if found.dtype.kind not in "fiu" or found.ndim != dimensions:
        raise ValueError(
            f"{key} must be {'a row of real numbers' if dimensions else 'one real number'}; "
            f"got {found.dtype} of shape {list(found.shape)}"
        )
    return found.astype(float)


@cache
def _shipped(file: str) -> Tables:
    path = Path(__file__).with_name(f"{file}.npz")
    return load(path) if path.exists() else {}


def main() -> None:
    """Fit every row and write the files that are shipped."""
    rows = [row for row in TABLE.values() if not row.gate]
    found = {row.name: fit_now(row) for row in rows}
    fits.save({name: one for name, one in found.items() if one})
    smooth = [row for row in rows if not step_slopes(row)]
    for file, (weight, unbiased) in SHIPPED.items():
        each = {row.name: fit_row(row, weight=weight, unbiased=unbiased) for row in smooth}
        tables = {(name, bits): table for name, of in each.items() for bits, table in of.items()}
        save(Path(__file__).with_name(f"{file}.npz"), tables)


if __name__ == "__main__":
    main()
