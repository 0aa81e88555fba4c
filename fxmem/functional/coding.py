"""From what a user asks of an activation to what its operator is told."""

from __future__ import annotations

import functools
from typing import NamedTuple

import sympy as sp
import torch

from fxmem.activations import store as shipped
from fxmem.activations.calculus import is_even, kinks, slope_curve, step_levels
from fxmem.activations.given import table_of
from fxmem.activations.inverse import branches
from fxmem.activations.levels import Levels
from fxmem.activations.table import TABLE, Activation
from fxmem.activations.unbiased import bounds
from fxmem.activations.widths import check_widths

from .signatures import torch_function, variants
from .tables import store

BITS = 3
SLACK = 1e-4  # of the slope's range, by which rounded levels may fall short of it

Arguments = tuple[tuple[str, float | str], ...]


class Options(NamedTuple):
    """How a slope is to be kept; `fxmem.functional` documents each."""

    bits: int | None = None
    borders: tuple[float, ...] | None = None
    levels: tuple[float, ...] | None = None
    keep: str = "codes"
    unbiased: bool = False


class Coding(NamedTuple):
    """What an operator is told: fxmem::few_bit, or with 0 bits fxmem::from_output."""

    function: str
    parameters: tuple[float, ...]
    borders: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    bits: int = 0
    even: bool = False
    drawn: bool = False


def check(options: Options) -> None:
    """Raise ValueError for options that no activation can have."""
    bits, borders, levels, keep, unbiased = options
    if keep not in ("codes", "output"):
        raise ValueError(f"keep must be 'codes' or 'output'; got {keep!r}")
    if keep == "output" and options != Options(keep=keep):
        raise ValueError("keep='output' is exact: bits, borders, levels and unbiased do not apply")
    check_widths(() if bits is None else (bits,))
    if bits is not None and not (borders is None and levels is None):
        raise ValueError("give either bits, or borders and levels")
    if levels is None and borders is not None:
        raise ValueError("borders need levels")
    if levels is not None and (borders is None) != unbiased:
        raise ValueError("levels need borders, unless codes are drawn (unbiased=True)")
    if levels is not None:
        table_of(borders, levels)


def coding(name: str, arguments: Arguments, options: Options, version: int) -> Coding:
    """How the activation `name` is computed; `version` is the store's, whose tables count.

    Raises ValueError for options that are impossible, or that this activation cannot have, and
    torch's own error for arguments that torch refuses.
    """
    # Before the cache, to which True is 1 and 3.0 is 3.
    check_widths(() if options.bits is None else (options.bits,))
    return _coding(name, arguments, options, version)


@functools.cache
def _coding(name: str, arguments: Arguments, options: Options, version: int) -> Coding:
    check(options)
    row, parameters = chosen(name, dict(arguments))
    if options.keep == "output":
        _check_invertible(row, parameters)
        return Coding(row.name, parameters)
    if steps := step_levels(row, parameters):
        if options.levels is not None:
            raise ValueError(f"{row.name} is coded exactly: it takes no borders and levels")
        return Coding(row.name, parameters, (), steps, (len(steps) - 1).bit_length())
    table = _table(row, parameters, options)
    if table.even and not is_even(row, parameters):
        raise ValueError(f"borders from 0 code |x|, but the slope of {row.name} is not even")
    numbers = tuple(table.borders.tolist()), tuple(table.levels.tolist())
    bits = options.bits or (max(table.bits, 1) if options.levels is not None else BITS)
    return Coding(row.name, parameters, *numbers, bits, table.even, table.unbiased)


def chosen(name: str, arguments: dict[str, float | str]) -> tuple[Activation, tuple[float, ...]]:
    """The row that a function's arguments select, and its parameters."""
    row = TABLE[name]
    for keyword, rows in variants(row).items():
        if arguments[keyword] not in rows:
            allowed = " or ".join(map(repr, rows))
            raise ValueError(f"{keyword} must be {allowed}; got {arguments[keyword]!r}")
        row = rows[arguments[keyword]]
    parameters = tuple(float(arguments[parameter]) for parameter, _ in row.parameters)
    if not sp.lambdify(row.symbols, row.allowed)(*parameters):
        torch_function(row)(torch.empty(0), **arguments)  # which says what is wrong
    return row, parameters


def _check_invertible(row: Activation, parameters: tuple[float, ...]) -> None:
    known = dict(zip(row.symbols, parameters, strict=True))
    if not branches(row) or not bool(row.invertible.subs(known)):
        numbers = "".join(f", {symbol}={number:g}" for symbol, number in known.items())
        raise ValueError(
            f"the output of {row.name}{numbers} does not determine its slope: keep='codes'"
        )


def _table(row: Activation, parameters: tuple[float, ...], options: Options) -> Levels:
    bits = options.bits or BITS
    if options.levels is not None:
        own = table_of(options.borders, options.levels)
    else:
        own = store.find(row.name, bits, options.unbiased) if parameters == row.defaults else None
    if own is None:
        return shipped.levels(row, bits, parameters=parameters, unbiased=options.unbiased)
    if own.unbiased:
        _check_span(row, parameters, own)
    return own


def _check_span(row: Activation, parameters: tuple[float, ...], table: Levels) -> None:
    """Refuse levels between which not every slope can be drawn, where slopes are bounded."""
    limits = bounds(slope_curve(row, parameters), kinks(row, parameters))
    low, high = limits or table.levels[[0, -1]]
    slack = SLACK * (high - low)
    if table.levels[0] > low + slack or table.levels[-1] < high - slack:
        raise ValueError(
            f"levels that are drawn must span the slope of {row.name}, from {low:g} to {high:g}; "
            f"got {table.levels[0]:g} to {table.levels[-1]:g}"
        )
