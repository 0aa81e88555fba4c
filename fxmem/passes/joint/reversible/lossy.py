"""Chains whose streams pass through what cannot be undone: named, so that users may move it.

A ReLU, a norm or a narrower dtype between two links loses what the state was: s = relu(s + F(t)).
Within F it would be in nobody's way.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten, op_name, tensor
from fxmem.passes.joint.reversible.chains import Chain, find_chains
from fxmem.passes.joint.reversible.couplings import steps
from fxmem.passes.joint.reversible.recomputable import SHORTEST
from fxmem.passes.joint.reversible.steps import Of, Step
from fxmem.passes.operators import CAST

# Gates are left out: through sigmoid and tanh an LSTM's states would seem to be two streams.
NORMS = {
    *(aten.native_layer_norm.default, aten.native_group_norm.default),
    *(aten.native_batch_norm.default, aten._native_batch_norm_legit_functional.default),
    *(aten._native_batch_norm_legit.default, aten._fused_rms_norm.default),
}

# Of a norm or an activation that is written out, beside what is pointwise.
PARTS = {
    *(aten.var_mean.correction, aten.mean.dim, aten.sum.dim_IntList, aten.amax.default),
    *(operator.getitem, aten.expand.default, aten.view.default, CAST),
}
MOST = 16


def left(forward: dict[fx.Node, None], found: list[Chain]) -> list[str]:
    """Say of chains beside those found what on their streams cannot be undone."""
    made = {link.out for chain in found if len(chain) >= SHORTEST for link in chain}
    chains = (_without(chain, made) for chain in find_chains(forward, _lossy_steps))
    return [
        f"reversible: {len(chain)} links are not recomputed, for {why} on their streams, between "
        "one link and the next, cannot be undone"
        for chain in chains
        if len(chain) >= SHORTEST and (why := _why(chain))
    ]


def _without(chain: Chain, made: set[fx.Node]) -> Chain:
    return [link for link in chain if made.isdisjoint(step.out for step in link.steps)]


def _why(chain: Chain) -> str:
    lost = [step for link in chain for step in link.steps if step.undo is _lost]
    return ", ".join(sorted({_name(step) for step in lost}))


def _name(step: Step) -> str:
    """Return what users called, of which the node may be the end."""
    name = op_name(step.out).removesuffix("[0]")
    if not step.within:
        return name
    called = str(step.out.meta.get("original_aten", name))
    return f"what ends in {name}" if called.startswith(name) else called.rpartition(".")[0]


def _lossy_steps(node: fx.Node) -> Iterator[Step]:
    """Yield the steps of couplings, and those that a function of one tensor would be."""
    found = list(steps(node))
    yield from found
    if not found and (source := _source(node)) is not None:
        yield Step(node, source, (), _lost)
    elif spread := _spread(node):
        yield Step(node, spread[0], (), _lost, within=spread[1])


def _source(node: fx.Node) -> fx.Node | None:
    """Return what a node rectifies, rounds or norms."""
    if node.target is operator.getitem:
        call, index = node.args
        source = call.args[0] if call.target in NORMS and index == 0 else None
    else:
        source = node.args[0] if node.target in (aten.relu.default, CAST) else None
    return source if _alike(source, node) else None


def _spread(node: fx.Node) -> tuple[fx.Node, frozenset[fx.Node]] | None:
    """Return what a norm or an activation, written out, is a function of; and the nodes of it.

    It reads that more than once, and nothing else that is computed: its weight is a parameter.
    """
    within: set[fx.Node] = set()
    sources = {node}
    while len(within) < MOST and _is_part(last := max(sources)):
        within.add(last)
        sources = (sources - {last}) | {n for n in last.all_input_nodes if n.all_input_nodes}
        if len(sources) < 2:
            break
    if len(sources) != 1 or len(within) < 2:
        return None
    (source,) = sources
    return (source, frozenset(within)) if _alike(source, node) else None


def _is_part(node: fx.Node) -> bool:
    return node.target in PARTS or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _alike(source: fx.Node | None, node: fx.Node) -> bool:
    both = tensor(source), tensor(node)
    alike = None not in both and str(both[0].shape) == str(both[1].shape)
    return alike and both[1].is_floating_point()


def _lost(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
    raise AssertionError(f"{out} cannot be undone")
