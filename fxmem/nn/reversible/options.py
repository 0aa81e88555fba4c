"""The arguments of a reversible chain in fxmem's words, and in RevLib's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .couplings import AdditiveCoupling, Coupling, FunctionCoupling

MEMORY = ("reversible", "checkpoint", "none")
# RevLib's MemoryModes: its two ways to be reversible are one here.
REVLIB = {
    0: "none",
    1: "checkpoint",
    2: "reversible",
    3: "reversible",
    "no_savings": "none",
    "checkpoint": "checkpoint",
    "autograd_graph": "reversible",
    "autograd_function": "reversible",
}
Function = Callable[..., Any]


def memory_of(memory: str, memory_mode: Any) -> str:
    """Return one of MEMORY; `memory_mode` is RevLib's number, its name, or a member of its enum."""
    if memory_mode is not None:
        mode = getattr(memory_mode, "name", memory_mode)
        if mode not in REVLIB:
            raise ValueError(f"memory_mode must be one of {list(REVLIB)}, got {memory_mode!r}")
        return REVLIB[mode]
    if memory not in MEMORY:
        raise ValueError(f"memory must be one of {', '.join(MEMORY)}, got {memory!r}")
    return memory


def couplings_of(coupling: Any, forward: Any, inverse: Any, count: int) -> list[Coupling]:
    """Return a coupling for each of `count` blocks; lists are gone through again and again."""
    if coupling is not None and (forward is not None or inverse is not None):
        raise TypeError("give coupling, or coupling_forward and coupling_inverse, not both")
    if (forward is None) != (inverse is None):
        raise TypeError("coupling_forward and coupling_inverse come in pairs: one is missing")
    if forward is not None:
        coupling = _pairs(_listed(forward), _listed(inverse))
    found = [_coupling(one) for one in _listed(coupling or AdditiveCoupling())]
    return [found[i % len(found)] for i in range(count)]


def _pairs(forward: list[Function], inverse: list[Function]) -> list[FunctionCoupling]:
    if len(forward) != len(inverse):
        raise ValueError(
            f"{len(forward)} functions in coupling_forward and {len(inverse)} in coupling_inverse: "
            "each has its inverse"
        )
    return [FunctionCoupling(*pair) for pair in zip(forward, inverse, strict=True)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _coupling(value: Any) -> Coupling:
    if isinstance(value, Coupling):
        return value
    if isinstance(value, Sequence) and len(value) == 2 and all(map(callable, value)):
        return FunctionCoupling(*value)
    raise TypeError(
        "a coupling is a fxmem.nn.reversible.Coupling or a pair of functions (forward, inverse), "
        f"got {value!r}"
    )
