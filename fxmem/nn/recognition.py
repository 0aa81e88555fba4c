"""Which activation a module of any library is: found by what it computes, not by its name."""

from __future__ import annotations

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
    modes = {part: part.training for part in module.modules()}
    try:
        found = _in_mode(module, True)
        return found if found == _in_mode(module, False) else None
    finally:
        for part, training in modes.items():
            part.training = training


def _in_mode(module: torch.nn.Module, training: bool) -> Found | None:
    for part in module.modules():  # not by train(), which a class may have overridden
        part.training = training
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
