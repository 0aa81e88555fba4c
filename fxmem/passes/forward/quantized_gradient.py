"""An activation's slope kept as a few-bit code, and nothing else of it.

After Novikov et al., arXiv 2202.00441, with the optimal levels of fxmem.activations. What is
computed is exact; the gradient has the slope's error. A piecewise linear activation has so few
slopes that codes tell them all apart.
"""

from __future__ import annotations

import math

from torch import fx

from fxmem.activations.store import levels
from fxmem.activations.table import TABLE
from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.coded import Codes, exact_codes, put
from fxmem.passes.forward.rule import Match, Place
from fxmem.policy import Policy

BITS = 3


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
        put(graph, place.activation, match.recipe)


def _codes(activation: Activation, bits: int, unbiased: bool) -> Codes:
    if codes := exact_codes(activation):
        return codes
    row = TABLE[activation.name]
    found = levels(row, bits, parameters=activation.parameters, unbiased=unbiased)
    borders, values = tuple(found.borders.tolist()), tuple(found.levels.tolist())
    return Codes(borders, values, bits, found.even, unbiased, found.error)
