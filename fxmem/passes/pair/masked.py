"""Values among which a mask has put -inf or the lowest number: no scale spans them and the rest.

A group that holds -inf decodes to NaN, one that holds finfo.min to zeros. Where a product comes
before the mask it is what is kept; sinks, padding and routers stand between the two.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from fxmem.passes.graph import ancestors, aten, is_view, op_name, owner, tensor
from fxmem.passes.operators import LITERALS, is_cast
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.sensitivity import is_elementwise

LOWEST = -1e4  # half precision's is -65504
ASSEMBLED = {f"aten.{op}" for op in ("cat", "stack", "scatter", "constant_pad_nd", "index_put")}
ASSEMBLED |= {f"aten.{at}_scatter" for at in ("slice", "select", "diagonal", "masked")}
ASSEMBLED |= {"aten.index_copy", "aten.index_fill", "aten.scatter_reduce", "aten.index_reduce"}
# Of -inf they make 0 or -1.
BOUNDED = ("aten.exp", "aten.sigmoid", "aten.tanh", "aten.relu")
# What leaves the lowest number the lowest, or makes it the largest.
SUMS = ("aten.add", "aten.sub")
SCALED = {f"aten.{op}" for op in ("mul", "div", "neg", "abs", "clone")}
LARGEST = ("aten.amax", "aten.max", "prims.prepare_softmax_online")


def masked(pair: Pair) -> set[fx.Node]:
    """Return the forward's nodes that may hold what a mask is made of."""
    found: set[fx.Node] = set()
    for node in pair.forward.graph.nodes:
        if node.op == "get_attr" and _is_low(node):
            found.add(node)
        if not _passes_on(node):
            continue
        values = (*node.args, *node.kwargs.values())
        if any(map(_is_extreme, values)) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found | _softmax_inputs(pair.forward.graph) | _sums_with_inputs(pair)


def _passes_on(node: fx.Node) -> bool:
    if node.op != "call_function" or op_name(node) in BOUNDED:
        return False
    return is_elementwise(node) or op_name(node) in ASSEMBLED or node.target in LITERALS


def _is_low(node: fx.Node) -> bool:
    """Whether a constant has such numbers, as what is assigned to a slice."""
    constant = operator.attrgetter(node.target)(node.graph.owning_module)
    if not isinstance(constant, torch.Tensor) or not (
        constant.is_floating_point() and constant.numel()
    ):
        return False  # a nested graph, or places
    with _disable_current_modes():
        lowest, largest = constant.detach().double().aminmax()
        return _is_extreme(lowest.item()) or _is_extreme(largest.item())


def _is_extreme(value: object) -> bool:
    return isinstance(value, float) and (value < LOWEST or value == math.inf)


def _softmax_inputs(graph: fx.Graph) -> set[fx.Node]:
    """Return what is put together and then exponentiated less its largest: masks may be inputs."""
    exponentials = graph.find_nodes(op="call_function", target=aten.exp.default)
    shifted = [n.args[0] for n in exponentials if _is_less_largest(n.args[0])]
    made_of = ancestors(shifted, lambda n: not is_elementwise(n))
    return {n for n in map(owner, made_of) if op_name(n) in ASSEMBLED}


def _sums_with_inputs(pair: Pair) -> set[fx.Node]:
    """Return what is exponentiated of sums with an input, which may be a mask: log(1 + exp(h + m)).

    None of softmaxes, whose probabilities are kept; none with what the rest is made of, as x + f(x)
    is, for that is no mask.
    """
    exponentials = pair.forward.graph.find_nodes(op="call_function", target=aten.exp.default)
    chains = [ancestors([n.args[0]], lambda n: not _is_scaled(n)) for n in exponentials]
    sums = [n for n in {n for chain in chains for n in chain} if op_name(n) in SUMS]
    given = _given(pair) if sums else {}
    found = {n for n in sums if _has_mask(n, given)}
    for node in pair.forward.graph.nodes if found else ():
        if _is_scaled(node) and node.all_input_nodes[0] in found:
            found.add(node)
    return found


def _is_scaled(node: fx.Node) -> bool:
    is_scaled = op_name(node) in SCALED or is_cast(node) or is_view(node)
    return is_scaled and node.op == "call_function" and len(node.all_input_nodes) == 1


def _given(pair: Pair) -> dict[fx.Node, set[fx.Node]]:
    """Return what is made of inputs alone that are not trained, each with these inputs."""
    found: dict[fx.Node, set[fx.Node]] = {}
    inputs = pair.forward.graph.find_nodes(op="placeholder")
    gradients = pair.backward.graph.output_node().args[0]
    if len(inputs) == len(gradients):
        untrained = (n for n, g in zip(inputs, gradients, strict=True) if g is None)
        found = {n: {n} for n in untrained if tensor(n) is not None and n.name not in pair.static}
    for node in pair.forward.graph.nodes if found else ():
        sources = node.all_input_nodes
        if sources and all(n in found for n in sources):
            found[node] = set.union(*(found[n] for n in sources))
    return found


def _has_mask(node: fx.Node, given: dict[fx.Node, set[fx.Node]]) -> bool:
    masks = [n for n in node.all_input_nodes if n in given and tensor(n).dtype.is_floating_point]
    rest = [n for n in node.all_input_nodes if n not in given]
    return bool(rest and masks) and given[masks[0]].isdisjoint(ancestors(rest, lambda n: False))


def _is_less_largest(node: fx.Node) -> bool:
    if node.target is not aten.sub.Tensor or not isinstance(node.args[1], fx.Node):
        return False
    largest = node.args[1]
    while is_view(largest) or largest.target is operator.getitem:
        largest = largest.args[0]
    return op_name(largest) in LARGEST
