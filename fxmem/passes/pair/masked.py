"""Values among which a mask has put -inf or the lowest number: no scale spans them and the rest.

A group that holds -inf decodes to NaN, one that holds finfo.min to zeros. Where a product comes
before the mask it is what is kept; sinks, padding and routers stand between the two.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from fxmem.passes.graph import ancestors, aten, is_view, op_name, owner
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.sensitivity import is_elementwise

LOWEST = -1e4  # half precision's is -65504
ASSEMBLED = {f"aten.{op}" for op in ("cat", "stack", "scatter", "constant_pad_nd", "index_put")}
LITERALS = ("aten.full", "aten.scalar_tensor")
# Of -inf they make 0 or -1.
BOUNDED = ("aten.exp", "aten.sigmoid", "aten.tanh", "aten.relu")
LARGEST = ("aten.amax", "aten.max", "prims.prepare_softmax_online")


def masked(pair: Pair) -> set[fx.Node]:
    """Return the forward's nodes that may hold what a mask is made of."""
    found: set[fx.Node] = set()
    for node in pair.forward.graph.nodes:
        if not _passes_on(node):
            continue
        values = (*node.args, *node.kwargs.values())
        if any(map(_is_extreme, values)) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found | _softmax_inputs(pair.forward.graph)


def _passes_on(node: fx.Node) -> bool:
    if node.op != "call_function" or op_name(node) in BOUNDED:
        return False
    return is_elementwise(node) or op_name(node) in ASSEMBLED or op_name(node) in LITERALS


def _is_extreme(value: object) -> bool:
    return isinstance(value, float) and (value < LOWEST or value == math.inf)


def _softmax_inputs(graph: fx.Graph) -> set[fx.Node]:
    """Return what is put together and then exponentiated less its largest: masks may be inputs."""
    exponentials = graph.find_nodes(op="call_function", target=aten.exp.default)
    shifted = [n.args[0] for n in exponentials if _is_less_largest(n.args[0])]
    made_of = ancestors(shifted, lambda n: not is_elementwise(n))
    return {n for n in map(owner, made_of) if op_name(n) in ASSEMBLED}


def _is_less_largest(node: fx.Node) -> bool:
    if node.target is not aten.sub.Tensor or not isinstance(node.args[1], fx.Node):
        return False
    largest = node.args[1]
    while is_view(largest) or largest.target is operator.getitem:
        largest = largest.args[0]
    return op_name(largest) in LARGEST
