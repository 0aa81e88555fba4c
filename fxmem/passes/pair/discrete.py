"""What turns floats into bits or indices is evaluated in the forward, and its result kept.

A comparison of a decoded value need not agree with the comparison of the value itself: one ReLU
mask recomputed from 8-bit codes errs in about 0.3 % of its elements, a gradient error of 5 %. The
mask itself is one bit an element, exact. Where this leaves the floats unread they are not kept.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxmem import ops
from fxmem.passes.graph import EXACT, NUMBERS, ancestors, nbytes, op_name, tensor
from fxmem.passes.pair.eligible import why_exact, why_shared
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.plan import Plan
from fxmem.policy import Policy

# Floats that jump: the derivative of |x| is one.
WHOLE = {f"aten.{op}" for op in ("round", "floor", "ceil", "trunc")}
STEPS = {"aten.sign", "aten.sgn", *WHOLE}
FRACTION = "its whole part is read beside it: of what is left codes would leave nothing"
MOVED = "fxmem_moved"  # in a kept node's meta: what was moved, in a sentence


def hoist_discrete(pair: Pair, policy: Policy) -> None:
    """Move discrete functions of kept floats from the backward to the forward, where it pays."""
    floats, nodes = _kept_floats(pair), _discrete_nodes(pair)

    def sources_of(node: fx.Node) -> list[fx.Node]:
        return [n for n in ancestors([node], floats.__contains__) if n in floats]

    for node in nodes:
        if op_name(node) in WHOLE and _is_read_beside(node):
            for source in sources_of(node):
                floats[source].owner.meta[EXACT] = FRACTION
    # From the last to the first: what is made of a result that is kept needs no second one.
    for node in reversed(nodes):
        if not node.users or not _is_movable(pair, node):
            continue
        sources = sources_of(node)
        lossy = policy.lossy and any(why_exact(pair, floats[n], policy) is None for n in sources)
        if sources and (lossy or _frees(pair, node, floats, policy)):
            result = _in_forward(pair, node)
            node.replace_all_uses_with(pair.keep(result))
            result.meta[MOVED] = f"{node.name}: evaluated in the forward and kept, not recomputed"
            pair.backward.graph.erase_node(node)
    if any(MOVED in node.meta for node in pair.saved):
        pair.prune()


def moved(pair: Pair, plan: Plan) -> list[str]:
    """Return a sentence for each function that was moved and that a plan, not yet applied, keeps.

    A code may serve in its place: then it is neither kept nor evaluated.
    """
    entries = zip(pair.storages(), plan.entries, strict=True)
    views = [view for storage, entry in entries if entry.nbytes for view in storage.views]
    return [view.meta[MOVED] for view in views if MOVED in view.meta]


def _kept_floats(pair: Pair) -> dict[fx.Node, Storage]:
    """Return the backward's placeholders for kept floats, each with its storage."""
    return {
        pair.taken(view.name): storage
        for storage in pair.storages()
        for view in storage.views
        if _is_float(view)
    }


def _discrete_nodes(pair: Pair) -> list[fx.Node]:
    """Return the bits and indices that the backward computes from what the forward has too."""
    own = {n.name for n in pair.forward.graph.nodes}
    foreign: set[fx.Node] = set()  # of gradients, and of random states, from which it draws again
    found = []
    for node in pair.backward.graph.nodes:
        is_input = node.op == "placeholder" and node.name not in own
        if is_input or not foreign.isdisjoint(node.all_input_nodes):
            foreign.add(node)
        elif node.op == "call_function" and _is_discrete(node):
            found.append(node)
    return found


def _is_discrete(node: fx.Node) -> bool:
    op = node.args[0] if node.target is operator.getitem else node
    made_of_floats = any(_is_float(n) for n in op.all_input_nodes)
    steps = op_name(node) in STEPS or not (_is_float(node) or node.meta.get(NUMBERS))
    return tensor(node) is not None and made_of_floats and steps


def _is_read_beside(whole: fx.Node) -> bool:
    """Whether more is read of a number than its whole part: what is left of it, say."""
    x = whole.args[0]
    others = (n for n in x.users if n is not whole and not _is_discrete(n))
    return any(not _is_straight_through(n, whole, x) for n in others)


def _is_straight_through(node: fx.Node, whole: fx.Node, x: fx.Node) -> bool:
    """Whether a node stands in x + (whole - x), which is the whole part again."""
    if op_name(node) == "aten.sub":
        sums = [n for n in node.users if op_name(n) == "aten.add" and x in n.args]
        return {*node.args} == {whole, x} and len(sums) == len(node.users)
    differences = (n for n in node.all_input_nodes if n is not x and op_name(n) == "aten.sub")
    return op_name(node) == "aten.add" and any({*n.args} == {whole, x} for n in differences)


def _is_float(node: fx.Node) -> bool:
    return tensor(node) is not None and tensor(node).dtype.is_floating_point


def _frees(pair: Pair, node: fx.Node, floats: dict[fx.Node, Storage], policy: Policy) -> bool:
    """Whether the result costs less than the storages that nothing else in the backward reads."""
    cone: set[fx.Node] = set()  # what lies between the kept floats and the result
    for n in sorted(ancestors([node], floats.__contains__)):
        if n in floats or not cone.isdisjoint(n.all_input_nodes):
            cone.add(n)
    if any(user not in cone for n in cone - {node} for user in n.users):
        return False
    storages = {floats[n] for n in cone if n in floats}
    freed = 0
    for storage in storages:
        if why_shared(pair, storage) is not None:
            continue
        taken = [pair.taken(view.name) for view in storage.views]
        if all(set(placeholder.users) <= cone for placeholder in taken):
            freed += storage.nbytes
    packs = policy.allows("masks") and nbytes(node) >= policy.min_bytes
    is_mask = tensor(node).dtype == torch.bool
    return freed > (ops.packed_bytes(nbytes(node), 1) if is_mask and packs else nbytes(node))


def _is_movable(pair: Pair, node: fx.Node) -> bool:
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
