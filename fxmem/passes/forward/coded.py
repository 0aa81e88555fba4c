"""Codes of an activation's slope: what few_bit is told of them, and its call in a graph."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.activations.calculus import step_levels
from fxmem.activations.table import TABLE
from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.emit import emit, first, replace
from fxmem.passes.forward.traced import device_of

SEEDS = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Codes:
    """What few_bit is told besides the function: how slopes are coded."""

    borders: tuple[float, ...]
    levels: tuple[float, ...]
    bits: int
    even: bool = False
    drawn: bool = False
    error: float = 0.0


def exact_codes(activation: Activation) -> Codes | None:
    """Return the codes that tell all slopes of a piecewise linear activation, None of others."""
    steps = step_levels(TABLE[activation.name], activation.parameters)
    return Codes((), steps, (len(steps) - 1).bit_length()) if steps else None


def put(graph: fx.Graph, activation: Activation, codes: Codes) -> None:
    """Let few_bit compute an activation, where that ends."""
    exit, source = activation.cone.exit, activation.cone.source
    with graph.inserting_before(exit):
        seed = [_seed(graph, exit, source)] if codes.drawn else []
        call = torch.ops.fxmem.few_bit.default
        function = (activation.name, list(activation.parameters))
        coding = (list(codes.borders), list(codes.levels), codes.bits, codes.even)
        replace(graph, activation, first(graph, exit, call, source, *function, *coding, *seed))


def _seed(graph: fx.Graph, like: fx.Node, source: fx.Node) -> fx.Node:
    """Draw a seed from torch's own generator, on the device of what is coded."""
    device = device_of(source) or graph.call_function(builtins.getattr, (source, "device"))
    draw = torch.ops.aten.randint.low
    return emit(graph, like, draw, *SEEDS, [1], dtype=torch.int64, device=device)
