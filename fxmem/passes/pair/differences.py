"""What a target is subtracted from is not encoded in its place: their difference is kept.

A loss behind a non-linearity keeps the prediction, or what that is made of, and the backward
subtracts the target from it again. An error of a code is a part of the prediction; where training
has brought that near to the target, it is many times the difference, and so the gradient. A number
is a target too (1, for what is real) where the gradient is made of powers of what is left of it.
"""

from __future__ import annotations

import functools

from torch import fx

from fxmem.passes.graph import ancestors, from_tangents, is_view, numel, op_name, tensor
from fxmem.passes.operators import is_cast
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.companions import refuse_dearer
from fxmem.passes.pair.cones import arriving
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import hoist, is_float, is_movable, kept_floats, known, passed
from fxmem.passes.pair.products import shape
from fxmem.policy import Policy


def hoist_differences(pair: Pair, policy: Policy) -> None:
    """Keep each difference of a value that would be encoded and a target, as large as that."""
    tainted, own = from_tangents(pair.backward.graph), {n.name for n in pair.forward.graph.nodes}

    def is_loss(node: fx.Node) -> bool:
        """Whether a difference from a number is one: derivatives have such, as 1 - y² of a tanh."""
        return node.name in own and _is_from_number(node) and _is_gradient(node, tainted)

    nodes = [n for n in known(pair) if _is_difference(n) or is_loss(n)]
    nodes = [n for n in nodes if is_movable(pair, n)]
    if not nodes:
        return
    floats = kept_floats(pair)
    refusal = refusals(pair, policy)

    @functools.cache
    def ways(storage: Storage) -> frozenset[fx.Node]:
        return frozenset(passed(pair, storage, tainted))

    def sources_of(node: fx.Node) -> set[Storage]:
        """Return what would be encoded of all that a node is made of."""
        made_of = ancestors([node], floats.__contains__)
        return {floats[n] for n in made_of if n in floats and refusal(floats[n]) is None}

    def is_target(storages: set[Storage], difference: fx.Node) -> bool:
        """Whether nothing else is read of what one side is made of: it is not trained here."""
        return all(difference in ways(s) for s in storages)

    found: dict[fx.Node, set[Storage]] = {}
    for node in nodes:
        # A number is made of nothing.
        left, right, *_ = (*map(sources_of, node.all_input_nodes), set())
        if left | right and not left & right:
            if is_target(left, node) or is_target(right, node):
                found[node] = left | right
    refused = refuse_dearer(pair, policy, found)
    for node, storages in found.items():
        if storages.isdisjoint(refused):
            hoist(pair, node)
    if found:
        pair.prune()


def _is_difference(node: fx.Node) -> bool:
    """Whether one value is subtracted from another that is as large, and of another origin."""
    if tensor(node) is None or not is_float(node) or len(node.all_input_nodes) != 2:
        return False
    negated = op_name(node) == "aten.add" and any(map(_is_negative, node.all_input_nodes))
    spread = any(op_name(n) == "aten.expand" for n in node.all_input_nodes)  # a mean, say
    alike = not spread and all(shape(n) == shape(node) for n in node.all_input_nodes)
    return alike and (op_name(node) == "aten.sub" or negated)


def _is_from_number(node: fx.Node) -> bool:
    """Whether a value of known size and a number are subtracted, or added, and none is zero."""
    if op_name(node) not in ("aten.sub", "aten.add") or node.kwargs or not is_float(node):
        return False
    is_from_number = len(node.all_input_nodes) == 1 and any(_numbers(node))
    return is_from_number and numel(node) is not None


def _is_gradient(difference: fx.Node, tainted: set[fx.Node]) -> bool:
    """Whether all that reads it are the gradients of losses that are powers of it."""
    pending, size = [difference], numel(difference)
    for value in pending:
        for user in value.users:
            if user not in tainted:
                if not (is_view(user) or _is_multiple(user) or _is_power(user)):
                    return False
                pending.append(user)
            elif op_name(user) != "aten.mul" or not arriving([user], tainted, size) < size:
                return False
    return True


def _is_multiple(node: fx.Node) -> bool:
    multiplies = op_name(node) in ("aten.mul", "aten.div", "aten.neg")
    return (multiplies or is_cast(node)) and len(node.all_input_nodes) == 1


def _is_power(node: fx.Node) -> bool:
    return op_name(node) == "aten.pow" and all(number >= 1 for number in _numbers(node))


def _numbers(node: fx.Node) -> list[float]:
    return [a for a in node.args if not isinstance(a, fx.Node)]


def _is_negative(node: fx.Node) -> bool:
    return op_name(node) == "aten.neg" or (
        op_name(node) == "aten.mul" and min(_numbers(node), default=0) < 0
    )
