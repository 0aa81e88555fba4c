"""Sines and cosines are kept themselves, not the angle that the backward would take them of.

A code's error is in radians, and angles may be of tens of them: of 8-bit codes of 30 x, as networks
of sines have them (Sitzmann et al., 2020), gradients err by 10 %. What waves is between -1 and 1.
What is read beside its own waves, as of h sin(30 h), is kept beside them. Where all that is no
less than the angle, in 16 bits say, that is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxmem.passes.graph import EXACT, aten, from_tangents, is_view, op_name
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.companions import refuse_dearer
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import hoist, is_movable
from fxmem.passes.pair.sensitivity import LINEAR
from fxmem.policy import Policy

WAVES = (aten.sin.default, aten.cos.default)
SCALES = {*LINEAR, "aten.mul", "aten.div", "aten.cat"}


IMMOVABLE = "sines are taken of it and of gradients"


def hoist_waves(pair: Pair, policy: Policy) -> None:
    """Keep the sines and cosines that the backward computes of values that would be encoded."""
    if not any(node.target in WAVES for node in pair.backward.graph.nodes):
        return
    tainted, refusal = from_tangents(pair.backward.graph), refusals(pair, policy)
    found: dict[fx.Node, set[Storage]] = {}
    for storage in pair.storages():
        if refusal(storage) is None:
            waves = [node for node in _ends(pair, storage, tainted) if node.target in WAVES]
            if not all(is_movable(pair, node) for node in waves):
                storage.owner.meta[EXACT] = IMMOVABLE
                continue
            for node in waves:
                found.setdefault(node, set()).add(storage)
    refused = refuse_dearer(pair, policy, found)
    for node, storages in found.items():
        if storages.isdisjoint(refused):
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
