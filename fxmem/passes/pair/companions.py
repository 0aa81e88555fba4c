"""Whether codes pay that something else must be kept beside them, or instead of them.

Of what is encoded some functions must be kept as they are, or for themselves: masks, differences,
waves. Of values in 16 bits, or with many functions, all of it may be more bytes than the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import fx

from fxmem import ops
from fxmem.passes.graph import EXACT, from_tangents, nbytes, numel, tensor
from fxmem.passes.pair.allocate import EVEN_GROUP, Width
from fxmem.passes.pair.eligible import LOSSY_DTYPES
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.policy import Policy

DEARER = "a code of it, and what would be kept beside that, would not be fewer bytes"


def refuse_dearer(
    pair: Pair, policy: Policy, companions: Mapping[fx.Node, Iterable[Storage]]
) -> set[Storage]:
    """Mark the storages that are to be kept as they are, for it takes no more bytes; return them.

    Args:
        companions: nodes of the backward that would be kept, each with the storages for whose codes
            it would be.
    """
    tainted, refused = from_tangents(pair.backward.graph), set()
    for storages, nodes in _together(companions):
        read = [s for s in storages if _is_needed_for_more(pair, s, nodes, tainted)]
        kept = sum(_coded(s.owner, policy) for s in read) + sum(_coded(n, policy) for n in nodes)
        if kept >= sum(s.nbytes for s in storages):
            refused |= storages
    for storage in refused:
        storage.owner.meta[EXACT] = DEARER
    return refused


def _together(
    companions: Mapping[fx.Node, Iterable[Storage]],
) -> list[tuple[set[Storage], set[fx.Node]]]:
    """Return storages, and what would be kept for them, by what has any of them in common."""
    found: list[tuple[set[Storage], set[fx.Node]]] = []
    for node, storages in companions.items():
        common, nodes = set(storages), {node}
        for other in [one for one in found if one[0] & common]:
            found.remove(other)
            common, nodes = common | other[0], nodes | other[1]
        found.append((common, nodes))
    return found


def _is_needed_for_more(
    pair: Pair, storage: Storage, nodes: set[fx.Node], tainted: set[fx.Node]
) -> bool:
    """Whether the backward needs a storage for more than these nodes."""
    pending = [pair.taken(view.name) for view in storage.views]
    seen = set(pending)
    for node in pending:
        for user in node.users:
            if user in tainted or user.op == "output":
                return True
            if user not in nodes and user not in seen:
                seen.add(user)
                pending.append(user)
    return False


def _coded(node: fx.Node, policy: Policy) -> int:
    """Return the bytes in which a value is kept, where nothing obliges it to be exact."""
    whole, dtype = nbytes(node), tensor(node).dtype
    if whole < policy.min_bytes or numel(node) is None:
        return whole
    if dtype == torch.bool:
        return ops.packed_bytes(whole, 1) if policy.allows("masks") else whole
    if dtype not in LOSSY_DTYPES:
        return whole
    return min(whole, Width(policy.width, policy.group or EVEN_GROUP).bytes_of([numel(node)]))
