"""Reversible chains: the backward recomputes each state from the next ones instead of keeping it.

Of s_k = s_{k-2} + F(s_{k-1}) only the last two states cross the cut. Where the gradient of F is
taken, F is computed again from s_{k-1}, and s_{k-2} = s_k - F(s_{k-1}): the last link first. What
F reads beside its stream (parameters, random masks, conditions) is shared, never computed again.
States come back up to floating-point rounding. (Gomez et al., The Reversible Residual Network,
2017, algorithm 1.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._inductor.pattern_matcher import stable_topological_sort
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import EXACT, ancestors, aten, copied, emit, from_tangents, owner, tensor
from fxmem.passes.joint.chains import Chain, Link, find_chains
from fxmem.passes.joint.recomputable import cone, recomputable

HALVES = (torch.bfloat16, torch.float16)
# What is differentiated without its output. The output of a ReLU comes back as 1e-8 where it was 0,
# and a derivative that looks at it would be wrong: the state that a chain begins with is then kept.
SMOOTH = {
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default),
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.embedding.default),
}
UNDONE_BY = {aten.add.Tensor: aten.sub.Tensor, aten.sub.Tensor: aten.add.Tensor}
# Marks that say when the node that is copied may be computed again, or that it was.
STALE = ("recompute", "ac_graph_id", "has_backward_hook")


@dataclass(frozen=True)
class Reversed:
    """A joint graph whose backward recomputes chains, and what is to be said of it."""

    joint: fx.GraphModule
    notes: tuple[str, ...]


def reverse(joint: fx.GraphModule, num_outputs: int) -> tuple[Reversed | None, list[str]]:
    """Return a copy of a joint graph with its reversible chains recomputed, and the refusals.

    None in place of the copy where no chain is found that can be. The copy has no two nodes that
    compute the same in its forward, and must stay as it is: eliminating common subexpressions
    would merge what is recomputed with what it replaces.
    """
    if not find_chains(_forward(joint.graph, num_outputs)):
        return None, []
    joint = _without_duplicates(joint)
    forward = _forward(joint.graph, num_outputs)
    chains, refusals = [], []
    for chain in find_chains(forward):
        parts, why = recomputable(chain)
        refusals += [f"a reversible chain is broken at {why}"] if why else []
        chains += parts
    if not chains:
        return None, refusals
    held = _held(joint, num_outputs)
    for chain in chains:
        _Rewrite(joint.graph, forward, held).chain(chain)
    stable_topological_sort(joint.graph)
    joint.graph.lint()
    return Reversed(joint, tuple(map(_note, chains))), refusals


def _without_duplicates(joint: fx.GraphModule) -> fx.GraphModule:
    joint = copied(joint)
    joint.graph.eliminate_dead_code()
    joint.graph = fx_graph_cse(joint.graph)
    return joint


def _forward(graph: fx.Graph, num_outputs: int) -> dict[fx.Node, None]:
    """Return what the forward computes, in order: its outputs' ancestors, and its side effects'."""
    backward = from_tangents(graph)
    outputs = [n for n in graph.output_node().args[0][:num_outputs] if isinstance(n, fx.Node)]
    effects = [n for n in graph.nodes if n.op == "call_function" and n.is_impure()]
    needed = set(ancestors([*outputs, *(n for n in effects if n not in backward)], lambda n: False))
    return {node: None for node in graph.nodes if node in needed}


def _held(joint: fx.GraphModule, num_outputs: int) -> set[fx.Node]:
    """Return the owners of what is in memory anyway: inputs, and outputs of the forward."""
    outputs = joint.graph.output_node().args[0][:num_outputs]
    held = {owner(n) for n in outputs if isinstance(n, fx.Node)}
    return held | set(joint.graph.find_nodes(op="placeholder"))


def _note(chain: Chain) -> str:
    value = tensor(chain[0].out)
    kind = str(value.dtype).removeprefix("torch.")
    note = f"reversible: {len(chain)} links are recomputed from their last two states, {kind}"
    if value.dtype in HALVES:
        note += (
            f"; each link back rounds its state to {kind}, and the gradient drifts with depth: "
            "keep the streams in float32 for an exact one"
        )
    return note


class _Rewrite:
    """Recomputes one chain after the other in a joint graph."""

    def __init__(self, graph: fx.Graph, forward: dict[fx.Node, None], held: set[fx.Node]) -> None:
        self.graph, self.forward, self.held = graph, forward, held
        self.gradients = from_tangents(graph)
        self.new: set[fx.Node] = set()

    def chain(self, chain: Chain) -> None:
        """Recompute a chain's branches and states, the last link first."""
        last = chain[-1]
        states = {last.out: last.out, last.stream: last.stream}
        for state in states:
            if owner(state) not in self.held:
                state.meta["recompute"] = CheckpointPolicy.MUST_SAVE
                state.meta[EXACT] = "a reversible chain is recomputed from it"
        for link in reversed(chain):
            self._link(link, states, self._comes_back(link, chain))

    def _comes_back(self, link: Link, chain: Chain) -> bool:
        """Whether the state before a link is computed back: not if it is in memory, or unread."""
        source = owner(link.skip)
        kept = source in self.held or link.skip.meta.get("recompute") == CheckpointPolicy.MUST_SAVE
        if kept or link is chain[0]:  # no branch reads the first state
            return False
        return link is not chain[1] or source.target in SMOOTH

    def _link(self, link: Link, states: dict[fx.Node, fx.Node], comes_back: bool) -> None:
        nodes = cone(link)
        env = {link.stream: states[link.stream]}
        with self.graph.inserting_before(self._place([*nodes, link.skip])):
            for node in nodes:
                env[node] = self._again(node, env)
            states[link.skip] = link.skip
            if comes_back:
                env[link.skip] = states[link.skip] = self._inverse(link, states, env)
        del env[link.stream]
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
        return self._in_backward(again)

    def _inverse(
        self, link: Link, states: dict[fx.Node, fx.Node], env: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        out, branch = states[link.out], env[link.branch]
        if link.out.args[0] is link.branch and link.out.target is aten.sub.Tensor:
            return self._in_backward(emit(self.graph, aten.sub.Tensor, branch, out, like=link.skip))
        if (alpha := link.out.kwargs.get("alpha", 1)) != 1:
            branch = self._in_backward(emit(self.graph, aten.mul.Tensor, branch, alpha))
        target = UNDONE_BY[link.out.target]
        return self._in_backward(emit(self.graph, target, out, branch, like=link.skip))

    def _in_backward(self, node: fx.Node) -> fx.Node:
        for key in STALE:
            node.meta.pop(key, None)
        node.meta["partitioner_tag"] = "must_be_in_backward"
        self.new.add(node)
        return node
