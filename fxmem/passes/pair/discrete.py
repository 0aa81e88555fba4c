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
from fxmem.passes.graph import EXACT, NUMBERS, ancestors, is_view, nbytes, op_name, tensor
from fxmem.passes.pair.companions import refuse_dearer
from fxmem.passes.pair.eligible import why_exact, why_shared
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import MOVED, hoist, is_float, is_movable, kept_floats, known
from fxmem.policy import Policy

# Floats that jump: the derivative of |x| is one.
WHOLE = {f"aten.{op}" for op in ("round", "floor", "ceil", "trunc")}
STEPS = {"aten.sign", "aten.sgn", "aten.remainder", "aten.fmod", "aten.frexp[0]", *WHOLE}
# Of what it makes the size is none of a sign's, which a code of it would lose near zero.
SIGN = "another value takes its sign, which codes of what is near zero do not tell"
FRACTION = "its whole part is read beside it: of what is left codes would leave nothing"


def hoist_discrete(pair: Pair, policy: Policy) -> None:
    """Move discrete functions of kept floats from the backward to the forward, where it pays."""
    floats, computed = kept_floats(pair), known(pair)
    nodes = [n for n in computed if _is_discrete(n)]

    def sources_of(node: fx.Node) -> list[fx.Node]:
        return [n for n in ancestors([node], floats.__contains__) if n in floats]

    def keep_exact(node: fx.Node, why: str) -> None:
        for source in sources_of(node):
            floats[source].owner.meta[EXACT] = why

    for node in computed:
        if _is_whole(node) and _fraction_is_read(node):
            keep_exact(node, FRACTION)
        if op_name(node) == "aten.copysign":
            keep_exact(node.args[1], SIGN)

    coded: set[Storage] = set()
    if policy.lossy:
        coded.update(s for s in floats.values() if why_exact(pair, s, policy) is None)

    def made_of(node: fx.Node) -> set[Storage]:
        return coded.intersection(floats[n] for n in sources_of(node))

    if coded:
        coded -= refuse_dearer(pair, policy, {n: made_of(n) for n in _last(pair, nodes)})
    # From the last to the first: what is made of a result that is kept needs no second one.
    for node in reversed(nodes):
        if not node.users or not is_movable(pair, node):
            continue
        if sources_of(node) and (made_of(node) or _frees(pair, node, floats, policy)):
            hoist(pair, node)
    if any(MOVED in node.meta for node in pair.saved):
        pair.prune()


def _last(pair: Pair, nodes: list[fx.Node]) -> list[fx.Node]:
    """Return of these nodes what is read by more than what only others of them are made of.

    None of those whose memory is that of what they are made of.
    """
    found, gone = [], set()
    for node in reversed(known(pair)):
        if gone.issuperset(node.users):
            gone.add(node)
        elif node in nodes and not is_view(node) and is_movable(pair, node):
            found.append(node)
            gone.add(node)
    return found


def _is_discrete(node: fx.Node) -> bool:
    op = node.args[0] if node.target is operator.getitem else node
    made_of_floats = any(is_float(n) for n in op.all_input_nodes)
    is_step = op_name(node) in STEPS or _is_whole(node)
    steps = is_step or not (is_float(node) or node.meta.get(NUMBERS))
    return tensor(node) is not None and made_of_floats and steps


def _is_whole(node: fx.Node) -> bool:
    """Whether floats are rounded to whole numbers, be they quotients."""
    rounds = op_name(node) in WHOLE or node.kwargs.get("rounding_mode") is not None
    return rounds and is_float(node)


def _fraction_is_read(whole: fx.Node) -> bool:
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
