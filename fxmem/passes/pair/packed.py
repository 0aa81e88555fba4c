"""Whole numbers of a few bits are kept in a stream of their bits: exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import fx

from fxmem.passes import bits as packing
from fxmem.passes.emit import Sizes, emit
from fxmem.passes.graph import numel, op_name, tensor
from fxmem.passes.pair.eligible import why_unpacked
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.places import Size, places
from fxmem.passes.pair.rewrite import substitute
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

DRAWN = "aten.bernoulli"  # alpha dropout's mask, and that of whole features: 0 or 1 in floats


class Packed:
    """int[n] -> streams of uint8 that hold ceil(log2(count)) bits an element (passes/bits.py).

    Args:
        name: of the rule.
        count: from how many values, zero the first, an element is; None where that is not known
            of a node at all, a SymInt where it is known when running only.
    """

    def __init__(self, name: str, count: Callable[[fx.Node], Size | None]) -> None:
        self.name, self.count = name, count

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match storages of such numbers, of a known size, that leave no nested region."""
        return [self._match(pair, storage, policy) for storage in storages]

    def _match(self, pair: Pair, storage: Storage, policy: Policy) -> Match | Refusal | None:
        count = self.count(storage.owner)
        if count is None:
            return None
        if why := why_unpacked(pair, storage, policy) or _why_uncounted(count):
            return Refusal(storage.record, self.name, why)
        bits = max(1, (count - 1).bit_length())
        if bits >= 8 * tensor(storage.owner).itemsize:
            return None
        packed = packing.packed_bytes(numel(storage.owner), bits)
        action = f"{bits} bit{'s' if bits > 1 else ''} an element"
        return Match(Site(storage.record, self.name, action, packed, "exact"), bits)

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Pack after the operator, unpack before the first use."""
        source, bits = storage.owner, match.recipe

        def pack(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
            streams = packing.pack(partial(emit, graph, like=source), x, bits)
            for stream in streams:
                stream._rename(f"{source.name}_bits")
            return streams

        def unpack(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
            emitted, dtype = partial(emit, graph, like=source), tensor(source).dtype
            return packing.unpack(emitted, kept, bits, sizes, strides, dtype)

        substitute(pair, source, storage.views, pack, unpack)


def _why_uncounted(count: Size) -> str | None:
    known = isinstance(count, int)
    return None if known else "how many places there are is not known when compiling"


def _truths(node: fx.Node) -> int | None:
    is_mask = tensor(node).dtype == torch.bool or op_name(node) == DRAWN
    return 2 if is_mask else None


MASKS, PLACES = Packed("masks", _truths), Packed("places", places)
