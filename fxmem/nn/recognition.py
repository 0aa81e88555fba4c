"""Which activation a module of any library is: found by what it computes, not by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxmem.activations.table import TABLE, Activation
from fxmem.passes.forward.activations import find

Found = tuple[Activation, dict[str, float]]


def recognised(module: torch.nn.Module) -> Found | None:
    """Return the row and parameters of an activation without state of its own, None for others.

    Its forward takes one tensor, is spelled in any way that symbolic tracing can follow, and
    computes the same in training and evaluation. Attributes of the module are read once, here.
    """
    if any(True for _ in (*module.parameters(), *module.buffers())):
        return None
    return in_both_modes(module, lambda: _recognised(module))


def in_both_modes(module: torch.nn.Module, look: Callable[[], Any]) -> Any:
    """Return what is found of a module in training and in evaluation, None where they differ."""
    modes, found = {part: part.training for part in module.modules()}, []
    try:
        for training in (True, False):
            for part in modes:  # not by train(), which a class may have overridden
                part.training = training
            found.append(look())
    finally:
        for part, training in modes.items():
            part.training = training
    return found[0] if found[0] == found[1] else None


def _recognised(module: torch.nn.Module) -> Found | None:
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception:  # a forward may raise anything when it is given a proxy
        return None
    inputs = graph.find_nodes(op="placeholder")
    (result,) = graph.output_node().args
    for activation in find(graph)[0]:
        if [activation.cone.source] == inputs and activation.cone.exit is result:
            row = TABLE[activation.name]
            names = [name for name, _ in row.parameters]
            return row, dict(zip(names, activation.parameters, strict=True))
    return None
