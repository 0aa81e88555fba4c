"""Sines and cosines are kept themselves, not the angle that the backward would take them of.

A code's error is in radians, and angles may be of tens of them: of 8-bit codes of 30 x, as networks
of sines have them (Sitzmann et al., 2020), gradients err by 10 %. What waves is between -1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxmem.passes.graph import aten, emit, from_tangents, is_view, op_name
from fxmem.passes.pair.discrete import MOVED
from fxmem.passes.pair.eligible import why_exact
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import LINEAR
from fxmem.policy import Policy

WAVES = (aten.sin.default, aten.cos.default)
SCALES = {*LINEAR, "aten.mul", "aten.div", "aten.cat"}


def hoist_waves(pair: Pair, policy: Policy) -> None:
    """Keep what the backward computes sines and cosines of, as far as it is for nothing else."""
    if not (policy.lossy and policy.allows("encode")):
        return
    tainted = from_tangents(pair.backward.graph)
    own = {n.name: n for n in pair.forward.graph.nodes}
    for storage in pair.storages():
        if why_exact(pair, storage, policy) is None:
            ends = list(_ends(pair, storage, tainted))
            if all(n.target in WAVES and n.args[0].name in own for n in ends):
                for node in ends:
                    _move(pair, node, own[node.args[0].name])
    pair.prune()


def _ends(pair: Pair, storage: Storage, tainted: set[fx.Node]) -> Iterator[fx.Node]:
    """Yield what reads a storage, or sums and multiples of it."""
    cone = dict.fromkeys(pair.taken(view.name) for view in storage.views)
    pending = list(cone)
    for node in pending:
        for user in node.users:
            if user in cone:
                continue
            cone[user] = None
            if user not in tainted and (is_view(user) or op_name(user) in SCALES):
                pending.append(user)
            else:
                yield user


def _move(pair: Pair, node: fx.Node, angle: fx.Node) -> None:
    same = [n for n in angle.users if n.target is node.target]
    with pair.forward.graph.inserting_after(angle):
        wave = same[0] if same else emit(pair.forward.graph, node.target, angle, like=angle)
    wave.meta[MOVED] = f"{node.name}: evaluated in the forward and kept, not recomputed"
    node.replace_all_uses_with(pair.keep(wave))
    pair.backward.graph.erase_node(node)
