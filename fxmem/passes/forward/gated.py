"""act(g) * u keeps g and u alone: act(g) is computed again in the backward."""

from __future__ import annotations

import torch
from torch import fx

from fxmem.passes.forward.constants import attribute
from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.emit import emit, erase, erase_idle
from fxmem.passes.forward.rule import Match, Place
from fxmem.passes.forward.traced import dtype_of, shape_of
from fxmem.policy import Policy


class Gated:
    """act(g) * u -> fxmem.gated(g, u)."""

    name = "gated"
    exact = True

    def match(self, place: Place, policy: Policy) -> Match | str | None:
        """Take an activation whose only reader multiplies it with what wants a gradient."""
        gate, exit = place.activation.cone.source, place.activation.cone.exit
        product, up = _product(exit)
        if up not in place.wanted or place.activation.cast:
            return None
        if place.stretch[product] != place.stretch[exit]:
            return f"something is overwritten before {product.name} reads it"
        if not _alike(gate, up):
            return f"{up.name} is not known to have the shape and dtype of {gate.name}"
        width = 8 * place.dtype.itemsize
        before = place.bits + (0 if place.output_keeper is None else width)
        after = 0 if place.source_keeper is not None else width
        if before <= after:
            return f"eager keeps {before:g} bits an element for it alone"
        return Match("kept as gate and factor", before, after, "exact", product)

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Put the operator where the product is."""
        activation = place.activation
        product, up = _product(activation.cone.exit)
        erase_idle(graph, product)
        with graph.inserting_before(product):
            call = torch.ops.fxmem.gated.default
            given = (activation.cone.source, up, activation.name, list(activation.parameters))
            product.replace_all_uses_with(emit(graph, product, call, *given))
        erase(graph, product)
        for node in reversed(activation.cone.nodes):
            erase(graph, node, activation.cone.constants)


def _product(exit: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """Return the only reader of a node, if that multiplies it, and what it multiplies it with."""
    users = readers(exit)
    is_product = len(users) == 1 and op(users[0]) == "mul" and len(users[0].args) == 2
    if not is_product or len(users[0].all_input_nodes) != 2:
        return None, None
    return users[0], next(node for node in users[0].all_input_nodes if node is not exit)


def _alike(gate: fx.Node, up: fx.Node) -> bool:
    """Whether two values have one shape and dtype: as traced, or as two layers of one input."""
    if shape_of(gate) is not None and shape_of(up) is not None:
        # As text: to compare symbolic sizes would specialise the graph to these.
        same = str(shape_of(gate)) == str(shape_of(up))
        return same and dtype_of(gate) == dtype_of(up)
    weights = [_weight(node) for node in (gate, up)]
    if None in weights or gate.args[0] is not up.args[0]:
        return False
    one, other = weights
    return one.shape[0] == other.shape[0] and one.dtype == other.dtype


def _weight(node: fx.Node) -> torch.Tensor | None:
    if op(node) != "linear":
        return None
    if node.op == "call_module":
        return module_of(node).weight
    is_attribute = len(node.args) > 1 and node.args[1].op == "get_attr"
    return attribute(node.args[1]) if is_attribute else None
