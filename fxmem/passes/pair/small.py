"""The smallest of what would be encoded is kept exactly while that costs next to nothing.

What a network keeps differs in size by orders of magnitude, and an error in the least of it costs
as much as one in the largest, or more: the embeddings of a batch, their distances, a router's
probabilities and a pooled picture are few, and every gradient has what is wrong with them. Of
Barlow Twins' loss the gradient is .8 and 9 % off with all of it in 8 and 4 bits, .01 and 2.3 % with
its embeddings as they are (tests/passes/test_small.py).
"""

from __future__ import annotations

from itertools import groupby

from fxmem.passes.graph import EXACT, numel, tensor
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.policy import Policy

SHARE = 16  # of the bytes that codes of all would take
WHY = f"small: all of its size and less take a {SHARE}th of what codes of all would"


def keep_small(pair: Pair, policy: Policy) -> None:
    """Mark the smallest storages, layers that are alike together, up to a share of all codes."""
    floats = [s for s in pair.storages() if _is_large(s, policy)]
    floats.sort(key=_nbytes)
    left = sum((numel(s.owner) or 0) * policy.width for s in floats) // (8 * SHARE)
    if not floats or floats[0].nbytes > left:
        return
    refusal = refusals(pair, policy)
    for nbytes, alike in groupby(floats, _nbytes):
        coded = [s for s in alike if refusal(s) is None]
        left -= len(coded) * nbytes
        if left < 0:
            return
        for storage in coded:
            storage.owner.meta[EXACT] = WHY


def _is_large(storage: Storage, policy: Policy) -> bool:
    return tensor(storage.owner).is_floating_point() and storage.nbytes >= policy.min_bytes


def _nbytes(storage: Storage) -> int:
    return storage.nbytes
