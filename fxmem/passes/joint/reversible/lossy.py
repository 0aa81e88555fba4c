"""Chains whose streams pass through what cannot be undone: named, so that users may move it.

A ReLU, a norm or a narrower dtype between two links loses what the state was: s = relu(s + F(t)).
Within F it would be in nobody's way.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import fx

from fxmem.passes.graph import aten, op_name, tensor
from fxmem.passes.joint.reversible.chains import Chain, find_chains
from fxmem.passes.joint.reversible.couplings import steps
from fxmem.passes.joint.reversible.recomputable import SHORTEST
from fxmem.passes.joint.reversible.steps import Emit, Of, Step
from fxmem.passes.joint.reversible.wrapped import CAST

# Gates are left out: through sigmoid and tanh an LSTM's states would seem to be two streams.
NORMS = {
    *(aten.native_layer_norm.default, aten.native_group_norm.default),
    *(aten.native_batch_norm.default, aten._native_batch_norm_legit_functional.default),
    *(aten._native_batch_norm_legit.default, aten._fused_rms_norm.default),
}


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
    return ", ".join(sorted({op_name(step.out).removesuffix("[0]") for step in lost}))


def _lossy_steps(node: fx.Node) -> Iterator[Step]:
    """Yield the steps of couplings, and those that a function of one tensor would be."""
    found = list(steps(node))
    yield from found
    if not found and (source := _source(node)) is not None:
        yield Step(node, source, (), _lost)


def _source(node: fx.Node) -> fx.Node | None:
    """Return what a node rectifies, rounds or norms."""
    if node.target is operator.getitem:
        call, index = node.args
        source = call.args[0] if call.target in NORMS and index == 0 else None
    else:
        source = node.args[0] if node.target in (aten.relu.default, CAST) else None
    both = tensor(source), tensor(node)
    alike = None not in both and str(both[0].shape) == str(both[1].shape)
    return source if alike and both[1].is_floating_point() else None


def _lost(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
    raise AssertionError(f"{out} cannot be undone")
