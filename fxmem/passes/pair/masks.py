"""Bools, and floats drawn to be 0 or 1, are kept as one bit an element: exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from fxmem import ops
from fxmem.passes.bits import cast
from fxmem.passes.graph import aten, emit, numel, op_name, tensor
from fxmem.passes.pair.eligible import why_unpacked
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.rewrite import Sizes, substitute
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

DRAWN = "aten.bernoulli"  # alpha dropout's mask, and that of whole features: 0 or 1 in floats


class Masks:
    """bool or drawn[n] -> uint8[ceil(n / 8)], least significant bit first."""

    name = "masks"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match storages of bools, of a known size, that leave no nested region."""
        return [self._match(pair, storage, policy) for storage in storages]

    def _match(self, pair: Pair, storage: Storage, policy: Policy) -> Match | Refusal | None:
        if tensor(storage.owner).dtype != torch.bool and op_name(storage.owner) != DRAWN:
            return None
        record = storage.record
        if why := why_unpacked(pair, storage, policy):
            return Refusal(record, self.name, why)
        packed = ops.packed_bytes(numel(storage.owner), 1)
        return Match(Site(record, self.name, "1 bit an element", packed, "exact"), None)

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Pack after the producer, unpack before the first use."""
        source, dtype = storage.owner, tensor(storage.owner).dtype

        def pack(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
            if dtype != torch.bool:
                x = emit(graph, aten.ne.Scalar, x, 0, like=source)
            packed = emit(graph, torch.ops.fxmem.pack.default, x, 1, like=source)
            packed._rename(f"{source.name}_bits")
            return [packed]

        def unpack(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
            target = torch.ops.fxmem.unpack.default
            mask = emit(graph, target, kept[0], sizes, strides, 1, torch.bool, like=source)
            return mask if dtype == torch.bool else emit(graph, cast, mask, dtype, like=source)

        substitute(pair, source, storage.views, pack, unpack)
