"""Sines and cosines are kept themselves, not the angle that the backward would take them of.

A code's error is in radians, and angles may be of tens of them: of 8-bit codes of 30 x, as networks
of sines have them (Sitzmann et al., 2020), gradients err by 10 %. What waves is between -1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxmem.passes.graph import EXACT, aten, from_tangents, is_view, numel, op_name
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import hoist, is_movable
from fxmem.passes.pair.sensitivity import LINEAR
from fxmem.policy import Policy

WAVES = (aten.sin.default, aten.cos.default)
SCALE_BITS = 0.5  # an element's share of its group's scale
SCALES = {*LINEAR, "aten.mul", "aten.div", "aten.cat"}


BOTH = "sines are taken of it, and codes of these and of it would be no less"


def hoist_waves(pair: Pair, policy: Policy) -> None:
    """Keep what the backward computes sines and cosines of, as far as it is for nothing else.

    Where it is for more, as of h sin(30 h), it is kept beside them, or alone and exactly if that is
    less.
    """
    if not any(node.target in WAVES for node in pair.backward.graph.nodes):
        return
    tainted, refusal = from_tangents(pair.backward.graph), refusals(pair, policy)
    for storage in pair.storages():
        if refusal(storage) is None:
            ends = list(_ends(pair, storage, tainted))
            waves = [node for node in ends if node.target in WAVES]
            if not waves:
                continue
            less = len(waves) == len(ends) or _is_less(storage, waves, policy)
            if less and all(is_movable(pair, node) for node in waves):
                for node in waves:
                    hoist(pair, node)
            else:
                storage.owner.meta[EXACT] = BOTH
    pair.prune()


def _is_less(storage: Storage, waves: list[fx.Node], policy: Policy) -> bool:
    """Whether codes of a storage and of its waves are less than the storage as it is."""
    counts = [numel(storage.owner), *map(numel, waves)]
    return None not in counts and sum(counts) * (policy.width + SCALE_BITS) < 8 * storage.nbytes


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
