"""Reversible chains: the backward recomputes each state from the next ones instead of keeping it.

Of s_k = s_{k-2} + F(s_{k-1}) only the last two states cross the cut, and anchors. Where the
gradient of F is taken, F is computed again from s_{k-1}, and s_{k-2} = s_k - F(s_{k-1}): the last
link first. What F reads beside its stream (parameters, random masks, conditions) is shared, never
computed again. States come back up to floating-point rounding, integers as they were. (Gomez et
al., The Reversible Residual Network, 2017, algorithm 1.)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._inductor.pattern_matcher import stable_topological_sort

from fxmem.passes.graph import EXACT, ancestors, copied, from_tangents, owner, tensor
from fxmem.passes.joint.reversible.anchors import WIDENED, anchors, causes
from fxmem.passes.joint.reversible.chains import Chain, find_chains
from fxmem.passes.joint.reversible.fixed import NOTE, fix
from fxmem.passes.joint.reversible.lossy import left
from fxmem.passes.joint.reversible.parts import chunks, see_through
from fxmem.passes.joint.reversible.products import split, sums
from fxmem.passes.joint.reversible.recomputable import SHORTEST, recomputable
from fxmem.passes.joint.reversible.rewrite import AGAIN, Rewrite
from fxmem.passes.joint.reversible.scatters import concatenate, scatters
from fxmem.passes.joint.reversible.shrinking import keep_lost
from fxmem.passes.joint.reversible.spared import spare
from fxmem.passes.joint.reversible.stacks import add_up, totals
from fxmem.passes.joint.reversible.widened import widen
from fxmem.passes.pair.graphs import Pair

NO_CHAIN = (
    f"reversible: no chain of {SHORTEST} links or more is found in this graph; fewer may be chance"
)


@dataclass(frozen=True)
class Reversed:
    """A joint graph whose backward recomputes chains, and what is to be said of it.

    `why`: what makes it keep states on the way, ": ..." at the end of a sentence; "" if nothing.
    """

    joint: fx.GraphModule
    notes: tuple[str, ...]
    why: str


def reverse(
    joint: fx.GraphModule,
    num_outputs: int,
    every: int | None = None,
    exact: bool = False,
    keep: float = 0.0,
    float64: bool = True,
) -> tuple[Reversed | None, list[str]]:
    """Return a copy of a joint graph with its reversible chains recomputed, and the refusals.

    None in place of the copy where no chain is found that can be. The copy has no two nodes that
    compute the same in its forward, and must stay as it is: eliminating common subexpressions
    would merge what is recomputed with what it replaces.

    Args:
        every: see :func:`fxmem.passes.joint.reversible.anchors.anchors`.
        exact: turn the states of additive chains into integers, which come back bit for bit.
        keep: see :func:`fxmem.passes.joint.reversible.spared.spare`.
        float64: carry states of float32 in it; otherwise what they lose grows with their size.
    """
    seen = _plainly(joint)
    forward = _forward(seen.graph, num_outputs)
    found = find_chains(forward)
    lossy = left(forward, found)
    if not found:
        return None, lossy
    joint = _without_duplicates(seen)
    chains, refusals = _chains(joint, num_outputs)
    refusals += lossy
    if not chains:
        return None, refusals
    checked: dict[fx.Node, fx.Node] = {}
    if exact:
        checked, chains, refused = fix(
            joint.graph,
            lambda: _forward(joint.graph, num_outputs),
            lambda: _chains(joint, num_outputs)[0],
        )
        refusals = [*refusals, *refused]
    if every is None and widen(joint.graph, chains, float64):
        chains = _chains(joint, num_outputs)[0]
    forward = _forward(joint.graph, num_outputs)
    made = [step.out for chain in chains for link in chain for step in link.steps]
    forward |= dict.fromkeys(keep_lost(made))
    rewrite = Rewrite(joint.graph, forward, _held(joint, num_outputs), checked)
    kept = [rewrite.chain(chain, anchors(chain, every)) for chain in chains]
    notes = (*map(_note, chains, kept), *([NOTE] if checked else []))
    most, why = max(zip(kept, map(causes, chains), strict=True), default=(0, ""))
    stable_topological_sort(joint.graph)
    if keep:
        notes = (*notes, spare(joint.graph, rewrite.repeated, keep))
    joint.graph.lint()
    return Reversed(joint, notes, why if most else ""), refusals


def keep_sources(pair: Pair) -> None:
    """Keep whatever states are recomputed from without loss: it would be lost in all of them."""
    again = [node for node in pair.backward.graph.nodes if AGAIN in node.meta]
    read = {node.name for node in ancestors(again, lambda n: n.op == "placeholder")}
    for storage in pair.storages() if again else ():
        if any(view.name in read for view in storage.views):
            storage.owner.meta.setdefault(EXACT, "states of a reversible chain are made of it")


def _chains(joint: fx.GraphModule, num_outputs: int) -> tuple[list[Chain], list[str]]:
    found = find_chains(_forward(joint.graph, num_outputs))
    chains, refusals = [], _rests(found)
    for chain in found:
        parts, why = recomputable(chain)
        refusals += [f"a reversible chain is broken at {why}"] if why else []
        chains += parts
    return chains, refusals


def _plainly(joint: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a joint graph where states are spelled otherwise, or itself."""
    graph = joint.graph
    if not any(spelled(graph) for spelled in (scatters, sums, totals, chunks)):
        return joint
    joint = copied(joint)
    concatenate(joint.graph)
    split(joint.graph)
    add_up(joint.graph)
    see_through(joint.graph)
    return joint


def _rests(found: list[Chain]) -> list[str]:
    """Say of what a break leaves of a chain that it is too short; two links alone may be chance."""
    rests = [chain for chain in found if len(chain) < SHORTEST]
    longer = [chain for chain in found if len(chain) >= SHORTEST]
    return [
        f"reversible: {len(rest)} links beside a longer chain are not recomputed, for a layer "
        f"breaks it there, and fewer than {SHORTEST} links may be chance"
        for rest in rests
        if any(_follows(rest, other) or _follows(other, rest) for other in longer)
    ]


def _follows(chain: Chain, before: Chain) -> bool:
    """Whether a chain begins with a state that another one ends with."""
    ends = (before[-1].out, before[-1].stream)
    return chain[0].skip in ends or chain[0].stream in ends


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


def _note(chain: Chain, kept: int) -> str:
    state = chain[0].out
    kind = str(tensor(state).dtype).removeprefix("torch.")
    if WIDENED in state.meta:
        kind += " for " + str(state.meta[WIDENED]).removeprefix("torch.")
    note = f"reversible: {len(chain)} links are recomputed from their last two states, {kind}"
    if not kept:
        return note
    states = f"{kept} state is" if kept == 1 else f"{kept} states are"
    return f"{note}; {states} kept on the way, lest rounding add up{causes(chain)}"
