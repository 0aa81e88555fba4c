"""Recomputing one chain after the other in a joint graph: clones, inverses, and who reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.emit import emit
from fxmem.passes.graph import EXACT, aten, from_tangents, owner, tensor
from fxmem.passes.joint.reversible.anchors import WIDENED
from fxmem.passes.joint.reversible.chains import Chain, Link
from fxmem.passes.joint.reversible.layouts import laid_out, retrace, strides
from fxmem.passes.joint.reversible.recomputable import cone
from fxmem.passes.operators import CAST

# What is differentiated without its output. The output of a ReLU comes back as 1e-8 where it was 0,
# and a derivative that looks at it would be wrong: the state that a chain begins with is then kept.
SMOOTH = {
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default),
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.embedding.default),
}
AGAIN = "fxmem_again"  # in the meta of what the backward computes a second time
# In the meta of what Inductor is to store at once. It would put off the additions and subtractions
# of states, and repeat several of them in each pass over one. Images it lays out as it likes.
STORED = "inductor_realize_to_strides"
IMAGE = 4
# Marks that say when the node that is copied may be computed again, or that it was.
STALE = ("recompute", "ac_graph_id", "has_backward_hook")


class Rewrite:
    """Recomputes chains in a joint graph.

    Args:
        forward: what the forward computes, in order.
        held: the owners of what is in memory anyway.
        checked: what is read in place of the forward's own where a state is recomputed.
    """

    def __init__(
        self,
        graph: fx.Graph,
        forward: dict[fx.Node, None],
        held: set[fx.Node],
        checked: dict[fx.Node, fx.Node],
    ) -> None:
        self.graph, self.forward, self.held, self.checked = graph, forward, held, checked
        self.gradients = from_tangents(graph)
        self.new: set[fx.Node] = set()
        self.repeated: dict[fx.Node, fx.Node] = {}  # by what is computed again, the first of it

    def chain(self, chain: Chain, anchors: set[fx.Node]) -> int:
        """Recompute a chain's branches and states, the last link first.

        Returns: how many states are kept beside the last two.
        """
        last = chain[-1]
        states = {last.out: last.out, last.stream: last.stream}
        for state in states:
            self._keep(state)
        kept = 0
        for link in reversed(chain):
            comes_back = link.skip not in anchors and self._comes_back(link, chain)
            if link.skip in anchors and link is not chain[0]:
                kept += self._keep(link.skip)
            self._link(link, states, comes_back)
            store(link.out)
        return kept

    def _keep(self, state: fx.Node) -> bool:
        if owner(state) in self.held or _is_kept(state):
            return False
        state.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        state.meta[EXACT] = "a reversible chain is recomputed from it"
        return True

    def _comes_back(self, link: Link, chain: Chain) -> bool:
        """Whether the state before a link is computed back: not if it is in memory, or unread."""
        source = owner(link.skip)
        if source in self.held or _is_kept(link.skip):
            return False
        if link is chain[0]:  # no branch reads the first state, but its own coupling may
            return _bears_rounding(source) and any(step.sides for step in link.steps[:-1])
        return link is not chain[1] or _bears_rounding(source)

    def _link(self, link: Link, states: dict[fx.Node, fx.Node], comes_back: bool) -> None:
        nodes = cone(link)
        between = [step.out for step in link.steps[:-1]]
        env = {**self.checked, link.stream: states[link.stream]}
        with self.graph.inserting_before(self._place([*nodes, *between, link.skip])):
            for node in nodes:
                env[node] = self._again(node, env)
            states[link.skip] = link.skip
            if comes_back:
                env[link.skip] = states[link.skip] = self._inverse(link, states[link.out], env)
            for node in between:
                env[node] = self._again(node, env)
        for node in (link.stream, *self.checked):
            del env[node]
        for node, again in env.items():
            # What a checkpoint would have computed again is not read any more.
            node.meta.pop("recompute", None)
            for user in self._backward_users(node):
                user.replace_input_with(node, again)

    def _place(self, nodes: list[fx.Node]) -> fx.Node:
        """Return the first node that takes a gradient through `nodes`: no earlier is one needed."""
        users = (user for node in nodes for user in self._backward_users(node))
        return min((n for n in users if n in self.gradients), default=self.graph.output_node())

    def _backward_users(self, node: fx.Node) -> list[fx.Node]:
        users = (user for user in node.users if user.op != "output")
        return [user for user in users if user not in self.forward and user not in self.new]

    def _again(self, node: fx.Node, env: dict[fx.Node, fx.Node]) -> fx.Node:
        again = self.graph.node_copy(node, lambda n: env.get(n, n))
        pairs = zip(node.all_input_nodes, again.all_input_nodes, strict=True)
        if any(strides(before) != strides(after) for before, after in pairs):
            retrace(again)
        self.repeated[again] = node
        return self._in_backward(again)

    def _inverse(self, link: Link, out: fx.Node, env: dict[fx.Node, fx.Node]) -> fx.Node:
        def emitted(target: Callable, *args: Any, **kwargs: Any) -> fx.Node:
            return self._in_backward(emit(self.graph, target, *args, like=link.skip, **kwargs))

        for step in reversed(link.steps):
            out = step.undo(emitted, out, lambda n: env.get(n, n))
        return store(laid_out(out, link.skip, emitted))

    def _in_backward(self, node: fx.Node) -> fx.Node:
        for key in STALE:
            node.meta.pop(key, None)
        node.meta["partitioner_tag"] = "must_be_in_backward"
        node.meta[AGAIN] = True
        self.new.add(node)
        return node


def store(state: fx.Node) -> fx.Node:
    """Mark what is to be in memory once it is computed, and return it."""
    if tensor(state).dim() < IMAGE:
        state.meta[STORED] = True
    return state


def _bears_rounding(source: fx.Node) -> bool:
    if WIDENED in source.meta and source.target is CAST:
        source = owner(source.args[0])
    value = tensor(source)
    return source.target in SMOOTH or not (value is None or value.is_floating_point())


def _is_kept(state: fx.Node) -> bool:
    return state.meta.get("recompute") == CheckpointPolicy.MUST_SAVE
