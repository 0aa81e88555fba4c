"""act(g) * u keeps g and u alone: act(g) is computed again in the backward.

And so is the product, where a linear layer alone reads it and would keep it for its weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxmem.passes.forward.constants import attribute
from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.emit import emit, erase, erase_idle
from fxmem.passes.forward.rule import Match, Place
from fxmem.passes.forward.traced import dtype_of, shape_of, traced
from fxmem.passes.forward.uses import keeper
from fxmem.policy import Policy

OPERANDS = ("input", "weight", "bias")


class Gated:
    """act(g) * u -> fxmem.gated(g, u), or with its linear layer fxmem.gated_linear(g, u, w, b)."""

    name = "gated"

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
        linear, why = _linear(product, place)
        width = 8 * place.dtype.itemsize
        before = place.bits + width * sum((place.output_keeper is not None, linear is not None))
        after = 0 if place.source_keeper is not None else width
        if before <= after:
            return f"eager keeps {before:g} bits an element for it alone"
        what = "kept as gate and factor" + (" of a linear layer's input" if linear else why)
        return Match(what, before, after, "exact", product, recipe=linear)

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Put the operator where the product is, or where the linear layer is."""
        activation, linear = place.activation, match.recipe
        product, up = _product(activation.cone.exit)
        given = (activation.cone.source, up)
        function = (activation.name, list(activation.parameters))
        for node in [product] if linear is None else [linear, product]:
            erase_idle(graph, node)
        if linear is None:
            with graph.inserting_before(product):
                call = torch.ops.fxmem.gated.default
                product.replace_all_uses_with(emit(graph, product, call, *given, *function))
        else:
            _replace_linear(graph, linear, given, function)
        erase(graph, product)
        for node in reversed(activation.cone.nodes):
            erase(graph, node, activation.cone.constants)


def _replace_linear(graph: fx.Graph, linear: fx.Node, given: tuple, function: tuple) -> None:
    with graph.inserting_before(linear):
        weights = _weights(graph, linear)
        call = torch.ops.fxmem.gated_linear.default
        output = graph.call_function(call, (*given, *weights, *function))
    output.meta = dict(linear.meta)  # it computes the same, and that even under autocast
    linear.replace_all_uses_with(output)
    erase(graph, linear)


def _weights(graph: fx.Graph, linear: fx.Node) -> list[fx.Node | None]:
    """Return a linear layer's weight and bias, of a module as nodes that read them from it."""
    if linear.op != "call_module":
        return _operands(linear)[1:]
    names = ("weight", "bias")
    had = [name for name in names if getattr(module_of(linear), name) is not None]
    return [graph.get_attr(f"{linear.target}.{name}") if name in had else None for name in names]


def _operands(linear: fx.Node) -> list[fx.Node | None]:
    return [*linear.args, *(linear.kwargs.get(name) for name in OPERANDS[len(linear.args) :])]


def _linear(product: fx.Node, place: Place) -> tuple[fx.Node | None, str]:
    """Return the linear layer that alone reads a product, and keeps it; else why it is kept."""
    users = readers(product)
    linear = next((user for user in users if _is_input(product, user)), None)
    if linear is None or keeper(product, place.wanted) is None:
        return None, ""
    others, why = [user for user in users if user is not linear], ""
    if others:
        why = f"{others[0].name} reads {product.name} beside {linear.name}"
    elif place.stretch[linear] != place.stretch[product]:
        why = f"something is overwritten before {linear.name} reads {product.name}"
    elif linear in place.otherwise:
        why = f"the gradient of {linear.name} is differentiated again"
    elif len(getattr(_weight(linear), "shape", ())) != 2:
        why = f"the weight of {linear.name} is not known to be a matrix"
    return (None, f", and their product, for {why}") if why else (linear, "")


def _is_input(product: fx.Node, user: fx.Node) -> bool:
    if op(user) != "linear":
        return False
    given, *weights = _operands(user)
    return given is product and product not in weights


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


def _weight(node: fx.Node) -> Any:
    if op(node) != "linear":
        return None
    if node.op == "call_module":
        return module_of(node).weight
    weight = _operands(node)[1]
    return attribute(weight) if weight.op == "get_attr" else traced(weight)
