"""What a command is given as a function: a row of the table, or the user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fxmem.activations.calculus import (
    Curve,
    is_even,
    kinks,
    slope_curve,
    step_slopes,
    value_curve,
)
from fxmem.activations.table import TABLE, Activation

PROBES = np.linspace(-8.0, 8.0, 33)
STEP = 1e-5  # of central differences: their error is about 1e-10 of the third derivative


@dataclass(frozen=True)
class Source:
    """A function with its slope, as numpy functions of float64, and what is known of the slope."""

    name: str
    value: Curve
    slope: Curve
    even: bool
    breaks: tuple[float, ...] = ()


def source(text: str) -> Source:
    """The row of that name, or `module:function`, of numpy arrays or of torch tensors.

    Raises ValueError where there is no such thing, or nothing of it can be fitted.
    """
    if ":" in text:
        return _own(text)
    row = TABLE.get(text)
    if row is None or row.gate or step_slopes(row):
        fitted = [r.name for r in TABLE.values() if not (r.gate or step_slopes(r))]
        known = f"; levels are fitted to {', '.join(fitted)} and to module:function"
        raise ValueError(f"{text} {_why_not(row)}{known}")
    return Source(row.name, value_curve(row), slope_curve(row), is_even(row), kinks(row))


def _why_not(row: Activation | None) -> str:
    if row is None:
        return "is not in the table"
    return "keeps its two inputs, and has no codes" if row.gate else "is exact"


def _own(text: str) -> Source:
    module, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything when it is imported
        raise ValueError(f"{text} is not to be had: {error}") from error
    finally:
        sys.path.pop(0)
    value, slope = _curves(text, _in_words(text, function))
    even = np.allclose(slope(PROBES), slope(-PROBES), rtol=1e-7, atol=1e-9)
    return Source(name, value, slope, bool(even))


def _curves(text: str, function: Callable) -> tuple[Curve, Curve]:
    """A function and its slope: by differences for one of numpy's, by autograd for torch's."""
    try:
        found = function(PROBES)
    except ValueError:
        found = None  # torch's functions refuse arrays
    if isinstance(found, np.ndarray):
        return _checked(text, function), _differences(function)
    value, slope = _torch_curves(text, function)
    return _checked(text, value), slope


def _in_words(text: str, function: Callable) -> Callable:
    """The user's function, whose errors become a sentence, and which may work in place."""

    def call(points):
        try:
            return function(points.copy() if isinstance(points, np.ndarray) else points.clone())
        except Exception as error:
            raise ValueError(f"{text} raises {type(error).__name__}: {error}") from error

    return call


def _checked(text: str, value: Curve) -> Curve:
    found = value(PROBES)
    _check_real(text, found, found.dtype.kind == "f")
    if found.shape != PROBES.shape or not np.isfinite(found).all():
        raise ValueError(_no_number(text))
    return value


def _check_real(text: str, found: Any, is_real: bool) -> None:
    if not is_real:
        raise ValueError(f"{text} must make real floating-point numbers; got {found.dtype}")


def _no_number(text: str) -> str:
    return f"{text} must make one finite number of each"


def _differences(function: Curve) -> Curve:
    def slope(points: np.ndarray) -> np.ndarray:
        step = STEP * np.maximum(1.0, np.abs(points))
        return (function(points + step) - function(points - step)) / (2 * step)

    return slope


def _torch_curves(text: str, function: Callable) -> tuple[Curve, Curve]:
    import torch

    def value(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = function(torch.tensor(points))
        if not isinstance(found, torch.Tensor):
            raise ValueError(_no_number(text))
        _check_real(text, found, found.is_floating_point())
        return found.double().numpy()

    def slope(points: np.ndarray) -> np.ndarray:
        leaf = torch.tensor(points, requires_grad=True)
        output = function(leaf)
        if not output.requires_grad:
            raise ValueError(f"{text} has no gradient: its output is detached from its input")
        (found,) = torch.autograd.grad(output.sum(), leaf)
        return found.numpy()

    return value, slope
