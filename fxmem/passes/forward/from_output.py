"""y = f(x) kept instead of x: f'(x) is f'(f⁻¹(y)) on the monotone branch that one bit names.

After Novikov et al., arXiv 2407.15545. It pays where a consumer keeps y anyway: then x goes, and a
bit or nothing comes. Nothing is lost but what the rounding of y has lost.
"""

from __future__ import annotations

import functools

import torch
from torch import fx

from fxmem.activations.inverse import branches, output_error_bound
from fxmem.activations.table import TABLE
from fxmem.passes.forward.emit import first, replace
from fxmem.passes.forward.rule import Match, Place
from fxmem.policy import Policy

# Of the output's dtype: what passes for floating-point rounding. At a minimum it is more, for there
# the output is flat and rounds the input away.
ROUNDINGS = 8

_error_bound = functools.cache(output_error_bound)


class FromOutput:
    """act(x) -> fxmem.from_output(x), whose backward reads y and the branch."""

    name = "from_output"

    def match(self, place: Place, policy: Policy) -> Match | str:
        """Take an activation whose output a consumer keeps and determines its slope."""
        activation = place.activation
        row = TABLE[activation.name]
        known = dict(zip(row.symbols, activation.parameters, strict=True))
        count = branches(row) if bool(row.invertible.subs(known)) else 0
        if count == 0:
            return f"the output of {activation.name} does not determine its slope"
        if place.output_keeper is None:
            return "nothing else keeps its output"
        if place.stretch[place.output_keeper] != place.stretch[activation.cone.exit]:
            return f"something is overwritten before {place.output_keeper.name} reads its output"
        bit = count - 1
        if place.bits <= bit:
            return f"eager keeps {place.bits:g} bits an element for it alone"
        what = "kept as its output and a branch bit" if bit else "kept as its output"
        eps = torch.finfo(place.dtype).eps
        bound = _error_bound(activation.name, eps)
        if bound <= ROUNDINGS * eps:
            return Match(what, place.bits, bit, "exact")
        return Match(f"{what}, slope within {bound:.1e}", place.bits, bit, "bounded")

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Put the operator where the activation ends."""
        activation = place.activation
        cone = activation.cone
        with graph.inserting_before(cone.exit):
            call = torch.ops.fxmem.from_output.default
            given = (cone.source, activation.name, list(activation.parameters))
            replace(graph, activation, first(graph, cone.exit, call, *given))
