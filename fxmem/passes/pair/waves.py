"""Sines and cosines are kept themselves, not the angle that the backward would take them of.

A code's error is in radians, and angles may be of tens of them: of 8-bit codes of 30 x, as networks
of sines have them (Sitzmann et al., 2020), gradients err by 10 %. What waves is between -1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxmem.passes.graph import aten, from_tangents, is_view, op_name
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import hoist, is_movable
from fxmem.passes.pair.sensitivity import LINEAR
from fxmem.policy import Policy

WAVES = (aten.sin.default, aten.cos.default)
SCALES = {*LINEAR, "aten.mul", "aten.div", "aten.cat"}


def hoist_waves(pair: Pair, policy: Policy) -> None:
    """Keep what the backward computes sines and cosines of, as far as it is for nothing else."""
    if not any(node.target in WAVES for node in pair.backward.graph.nodes):
        return
    tainted, refusal = from_tangents(pair.backward.graph), refusals(pair, policy)
    for storage in pair.storages():
        if refusal(storage) is None:
            ends = list(_ends(pair, storage, tainted))
            if all(node.target in WAVES and is_movable(pair, node) for node in ends):
                for node in ends:
                    hoist(pair, node)
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
