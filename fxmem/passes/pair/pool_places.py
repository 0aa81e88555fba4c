"""Where in its window the maximum of a pool lies, in the bits that the window needs: exact.

Inductor's decomposition of max pooling keeps such a place in 8 bits; four places take 2. Of windows
of more than 25 it keeps torch's indices, as any other compiler does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import fx

from fxmem import ops
from fxmem.passes.graph import aten, emit, numel, op_name
from fxmem.passes.pair.eligible import why_unpacked
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.rewrite import Sizes, substitute
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

POOL = "prims._low_memory_max_pool_with_offsets"


class PoolPlaces:
    """int8[n] -> uint8[ceil(bits * n / 8)] of bits = ceil(log2(window))."""

    name = "pool_places"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match the places of pools whose windows have at most 128."""
        return [self._match(pair, storage, policy) for storage in storages]

    def _match(self, pair: Pair, storage: Storage, policy: Policy) -> Match | Refusal | None:
        bits = _bits(storage.owner)
        if bits is None:
            return None
        if why := why_unpacked(pair, storage, policy):
            return Refusal(storage.record, self.name, why)
        packed = ops.packed_bytes(numel(storage.owner), bits)
        action = f"{bits} bit{'s' if bits > 1 else ''} an element"
        return Match(Site(storage.record, self.name, action, packed, "exact"), bits)

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Pack after the pool, unpack before the first use."""
        source, bits = storage.owner, match.recipe

        def pack(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
            places = emit(graph, aten.view.dtype, x, torch.uint8, like=source)
            packed = emit(graph, torch.ops.fxmem.pack.default, places, bits, like=source)
            packed._rename(f"{source.name}_bits")
            return [packed]

        def unpack(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
            given = (kept[0], sizes, strides, bits, torch.uint8)
            places = emit(graph, torch.ops.fxmem.unpack.default, *given, like=source)
            return emit(graph, aten.view.dtype, places, torch.int8, like=source)

        substitute(pair, source, storage.views, pack, unpack)


def _bits(node: fx.Node) -> int | None:
    """Return how many bits the places need that a node holds, None for any other node or for 8."""
    if node.target is not operator.getitem or node.args[1] != 1:
        return None
    pool = node.args[0]
    if op_name(pool) != POOL:
        return None
    bits = max(1, (math.prod(pool.args[1]) - 1).bit_length())
    return bits if bits < 8 else None
