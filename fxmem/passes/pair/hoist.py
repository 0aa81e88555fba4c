"""Tools to evaluate in the forward, and keep, what the backward makes of kept floats."""

from __future__ import annotations

import heapq
import operator

import torch
from torch import fx

from fxmem.passes.graph import ancestors, tensor
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.plan import Plan

MOVED = "fxmem_moved"  # in a kept node's meta: what was moved, in a sentence


def hoist(pair: Pair, node: fx.Node) -> None:
    """Keep a value of the backward that the forward has, or can compute (:func:`is_movable`)."""
    result = _in_forward(pair, node)
    node.replace_all_uses_with(pair.keep(result))
    result.meta[MOVED] = f"{node.name}: evaluated in the forward and kept, not recomputed"
    pair.backward.graph.erase_node(node)


def moved(pair: Pair, plan: Plan) -> list[str]:
    """Return a sentence for each function that was moved and that a plan, not yet applied, keeps.

    A code may serve in its place: then it is neither kept nor evaluated.
    """
    entries = zip(pair.storages(), plan.entries, strict=True)
    views = [view for storage, entry in entries if entry.nbytes for view in storage.views]
    return [view.meta[MOVED] for view in views if MOVED in view.meta]


def kept_floats(pair: Pair) -> dict[fx.Node, Storage]:
    """Return the backward's placeholders for kept floats, each with its storage."""
    return {
        pair.taken(view.name): storage
        for storage in pair.storages()
        for view in storage.views
        if is_float(view)
    }


def known(pair: Pair) -> list[fx.Node]:
    """Return what the backward computes from what the forward has too."""
    own = {n.name for n in pair.forward.graph.nodes}
    foreign: set[fx.Node] = set()  # of gradients, and of random states, from which it draws again
    found = []
    for node in pair.backward.graph.nodes:
        is_input = node.op == "placeholder" and node.name not in own
        if is_input or not foreign.isdisjoint(node.all_input_nodes):
            foreign.add(node)
        elif node.op == "call_function":
            found.append(node)
    return found


def is_float(node: fx.Node) -> bool:
    """Whether a node is a tensor of floats."""
    return tensor(node) is not None and tensor(node).dtype.is_floating_point


def is_movable(pair: Pair, node: fx.Node) -> bool:
    """Whether the forward has, or can compute by operators alone, what the node is made of."""
    own = {n.name for n in pair.forward.graph.nodes}
    missing = [n for n in ancestors([node], lambda n: n.name in own) if n.name not in own]
    operators = (torch._ops.OpOverload, type(operator.getitem))
    return all(n.op == "call_function" and isinstance(n.target, operators) for n in missing)


def _in_forward(pair: Pair, node: fx.Node) -> fx.Node:
    """Return the forward's own copy of a value that the backward recomputes, made if need be."""
    graph = pair.forward.graph
    own = {n.name: n for n in graph.nodes}
    missing = ancestors([node], lambda n: n.name in own)
    for n in sorted(n for n in missing if n.name not in own):
        sources = [own[source.name] for source in n.all_input_nodes]
        with graph.inserting_after(max([*sources, _last_input(graph)])):
            own[n.name] = graph.node_copy(n, lambda source: own[source.name])
    return own[node.name]


def _last_input(graph: fx.Graph) -> fx.Node:
    return graph.find_nodes(op="placeholder")[-1]


def passed(pair: Pair, storage: Storage, tainted: set[fx.Node]) -> list[fx.Node]:
    """Return what every path from a storage to the gradients passes (its post-dominators)."""
    readers = {user for view in storage.views for user in pair.taken(view.name).users}
    pending, found = sorted(readers), []
    while pending and pending[0] not in tainted and pending[0].op == "call_function":
        node = heapq.heappop(pending)
        if not pending:
            found.append(node)
        for user in set(node.users) - readers:
            heapq.heappush(pending, user)
        readers.update(node.users)
    return found
