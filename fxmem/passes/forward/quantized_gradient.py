"""An activation's slope kept as a few-bit code, and nothing else of it.

After Novikov et al., arXiv 2202.00441, with the optimal levels of fxmem.activations. What is
computed is exact; the gradient has the slope's error. A piecewise linear activation has so few
slopes that codes tell them all apart.
"""

from __future__ import annotations

import builtins
import math
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.activations.calculus import step_levels
from fxmem.activations.store import levels
from fxmem.activations.table import TABLE
from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.emit import emit, first, replace
from fxmem.passes.forward.rule import Match, Place
from fxmem.passes.forward.traced import device_of
from fxmem.policy import Policy

BITS = 3
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


class QuantizedGradient:
    """act(x) -> fxmem.few_bit(x), whose backward reads the codes and knows no activation."""

    name = "quantized_gradient"

    def match(self, place: Place, policy: Policy) -> Match:
        """Take every activation: the rule is asked for by name, and the plan says what it costs."""
        bits = policy.option(self.name, "bits", BITS)
        unbiased = policy.option(self.name, "unbiased", False)
        codes = _codes(place.activation, bits, unbiased)
        what, guarantee = f"{codes.bits}-bit codes of its slope", "exact"
        if codes.error:
            what += f", rms error {math.sqrt(codes.error):.1e} for normal inputs"
            guarantee = "bounded"
        if codes.drawn:
            what, guarantee = f"drawn {what}", "unbiased"
        return Match(what, place.bits, codes.bits, guarantee, recipe=codes)

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Put the operator where the activation ends."""
        activation, codes = place.activation, match.recipe
        exit, source = activation.cone.exit, activation.cone.source
        with graph.inserting_before(exit):
            seed = [_seed(graph, exit, source)] if codes.drawn else []
            call = torch.ops.fxmem.few_bit.default
            function = (activation.name, list(activation.parameters))
            coding = (list(codes.borders), list(codes.levels), codes.bits, codes.even)
            output = first(graph, exit, call, source, *function, *coding, *seed)
            replace(graph, activation, output)


def exact(activation: Activation) -> Codes | None:
    """Return the codes that tell all slopes of a piecewise linear activation, None of others."""
    steps = step_levels(TABLE[activation.name], activation.parameters)
    return Codes((), steps, (len(steps) - 1).bit_length()) if steps else None


def _codes(activation: Activation, bits: int, unbiased: bool) -> Codes:
    if codes := exact(activation):
        return codes
    row = TABLE[activation.name]
    found = levels(row, bits, parameters=activation.parameters, unbiased=unbiased)
    borders, values = tuple(found.borders.tolist()), tuple(found.levels.tolist())
    return Codes(borders, values, bits, found.even, unbiased, found.error)


def _seed(graph: fx.Graph, like: fx.Node, source: fx.Node) -> fx.Node:
    """Draw a seed from torch's own generator, on the device of what is coded."""
    device = device_of(source) or graph.call_function(builtins.getattr, (source, "device"))
    draw = torch.ops.aten.randint.low
    return emit(graph, like, draw, *SEEDS, [1], dtype=torch.int64, device=device)
