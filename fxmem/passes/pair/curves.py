"""The function by which a cone weighs gradients, found by running the cone when compiling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from fxmem.passes.graph import ancestors, aten
from fxmem.passes.operators import is_cast
from fxmem.passes.pair.cones import Cone, Exit

# Of the root no more is known when compiling than that activations are of this size. Beyond, a code
# knows no differences, so the function may change there by no more than FLAT times its span.
INNER = np.linspace(-10.0, 10.0, 4000)  # an even number: kinks at integers lie between …
INNER = np.insert(INNER, INNER.size // 2, 0.0)  # … but for 0, where many have their peak
OUTER = np.linspace(10.0, 100.0, 91)[1:]
GRID = np.concatenate([-OUTER[::-1], INNER, OUTER])
FLAT = 0.1
FADED = 0.01  # of its peak is left at the ends of INNER
# A function that changes at fewer points of the grid is constant in pieces.
JUMPS = 8
HALVINGS, TINY = 60, 1e-15

# Where a function jumps: the last point before, the first after, the values at both.
Jumps = tuple[tuple[float, float, float, float], ...]


class NoCode(Exception):
    """Why no few-bit code can stand for a cone, in a sentence."""


@dataclass(frozen=True)
class Curve:
    """A function: float64 values on GRID, and where it jumps."""

    values: bytes
    jumps: Jumps

    @property
    def vanishes(self) -> bool:
        """Whether it goes to 0 with its argument: its steps, which are absolute, do not."""
        values = np.frombuffer(self.values)
        if any(abs(low) <= TINY for low, *_ in self.jumps):
            return False  # it jumps there
        return bool(abs(values[GRID == 0]) <= 1e-6 * np.abs(values).max())

    @property
    def fades(self) -> bool:
        """Whether it has one sign and fades on a side, as a gate's slope where that is shut."""
        values = np.frombuffer(self.values)
        ends = np.abs(values[np.abs(GRID) == INNER[-1]]) / np.abs(values).max()
        one_sign = values.min() * values.max() >= 0
        return bool(one_sign and any((ends > 0) & (ends <= FADED)))


def curve(cone: Cone) -> Curve | None:
    """Return the one function by which a cone weighs gradients.

    None where it is a straight line, as in products, norms and squared errors: that is no
    activation, and no few steps are near to it.

    Raises:
        NoCode: where there is no such function, or no few steps that are near to it everywhere.
    """
    try:
        curves = np.stack([evaluate(cone, exit, GRID) for exit in cone.exits])
        offsets = np.stack([evaluate(cone, exit, GRID, factor=0.0) for exit in cone.exits])
    except (RuntimeError, TypeError) as error:
        raise NoCode(f"its function cannot be run when compiling ({error})") from error
    if not np.isfinite(curves).all() or offsets.any():
        raise NoCode("what it does to a gradient is no product with a finite number")
    if any(map(_is_straight, curves)):
        return None
    if not all(is_multiple(other, curves[0], 1.0) for other in curves):
        raise NoCode("more than one function of it weighs gradients, as in a gated pair")
    _check_steps(curves[0])
    jumps = _jumps(functools.partial(evaluate, cone, cone.exits[0]), curves[0])
    return Curve(curves[0].tobytes(), jumps)


def is_multiple(values: np.ndarray, of: np.ndarray, factor: float) -> bool:
    """Whether one function is so many times another, up to the rounding of long formulas."""
    return np.allclose(values, factor * of, rtol=1e-6, atol=1e-6 * np.abs(values).max())


def _is_straight(values: np.ndarray) -> bool:
    return is_multiple(values, np.interp(GRID, GRID[[0, -1]], values[[0, -1]]), 1.0)


def _check_steps(values: np.ndarray) -> None:
    left, inner, right = np.split(values, [len(OUTER), len(OUTER) + len(INNER)])
    flat = FLAT * np.ptp(inner)
    if np.count_nonzero(np.diff(inner)) < JUMPS:
        raise NoCode("its function is constant in pieces: bits kept by comparisons are exact")
    before, zero, after = inner[len(inner) // 2 - 1 :][:3]
    if min(abs(zero - before), abs(zero - after)) > flat:
        raise NoCode("its function has a value of its own at 0, which no step can have")
    if max(np.ptp([*left, inner[0]]), np.ptp([*right, inner[-1]])) > flat:
        raise NoCode("its function does not level off, so nothing bounds a few-bit code's error")


def _jumps(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> Jumps:
    """Return where a function jumps: halving the way to it does not halve the change."""
    grid, at_zero, values = GRID[GRID != 0], values[GRID == 0], values[GRID != 0]
    change = np.abs(np.diff(values))
    at = 1 + np.flatnonzero(change[1:-1] > 4 * np.maximum(change[:-2], change[2:]))
    low, high, left, right = grid[at], grid[at + 1], values[at], values[at + 1]
    for _ in range(HALVINGS if at.size else 0):
        middle = low + 0.49 * (high - low)  # not 0 itself
        value = function(middle)
        on_left = np.abs(value - left) < np.abs(value - right)
        low, left = np.where(on_left, (middle, value), (low, left))
        high, right = np.where(on_left, (high, right), (middle, value))
    # 0 is on the side that it is like: many an activation's input is 0.
    zero = np.where(np.abs(at_zero - left) < np.abs(at_zero - right), 0.0, -TINY)
    low = np.where(np.abs(low) < TINY, zero, low)
    is_jump = np.abs(right - left) > change[at] / 2
    return tuple(map(tuple, np.stack([low, high, left, right], 1)[is_jump].tolist()))


def evaluate(cone: Cone, exit: Exit, root: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Return an exit, float64, where the cone's root has these values and its factors this one.

    Casts between floating dtypes are left out: what comes is the function, not its rounding.

    Raises:
        RuntimeError, TypeError: where an operator of the cone cannot be run on them.
    """
    with _disable_current_modes(), torch.no_grad():
        inputs = dict.fromkeys(exit.factors, torch.tensor(factor, dtype=torch.float64))
        needed = ancestors([exit.node], lambda n: n in cone.twins or n in inputs)
        twins = {n: cone.twins[n] for n in needed if n in cone.twins}
        own = _run(twins.values(), {cone.root: torch.from_numpy(root)})
        shared = {n: own[twin] for n, twin in twins.items()}
        return _run([exit.node], {**inputs, **shared})[exit.node].numpy()


def _run(wanted: Iterable[fx.Node], values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    for node in sorted(ancestors(wanted, values.__contains__)):
        if node not in values:
            values[node] = _compute(node, values)
    return values


def _compute(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        constant = functools.reduce(getattr, node.target.split("."), node.graph.owning_module)
        return _exact(constant.detach().cpu().reshape(()))
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if is_cast(node) and node.meta["val"].is_floating_point():
        return _exact(args[0])
    if node.target is aten.full.default:
        args = ([], args[1])  # a constant tensor of any size is one number
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if getattr(kwargs.get("dtype"), "is_floating_point", False):
        kwargs = kwargs | {"dtype": torch.float64}
    return _exact(node.target(*args, **kwargs))


def _exact(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value
