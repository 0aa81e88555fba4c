"""Of a storage of which the backward reads parts, those are kept: copies of them.

A view keeps all that it is a view of alive. Min-cut prices it by its own bytes, and so keeps
slices of what it would better recompute them from, or the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import fx

from fxmem.ops import layout
from fxmem.passes.emit import Sizes, emit
from fxmem.passes.graph import aten, nbytes, tensor
from fxmem.passes.pair.eligible import why_shared
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.parts import Parts, parts_of
from fxmem.passes.pair.rewrite import laid_out, substitute
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

LEAST = 0.1  # of a storage, to be worth copies of its parts


class Copied:
    """any[n] -> copies of the views of it that the backward reads: exact."""

    name = "parts"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match storages whose parts that are read are together smaller, of a known size."""
        return [self._match(pair, storage, policy) for storage in storages]

    def _match(self, pair: Pair, storage: Storage, policy: Policy) -> Match | Refusal | None:
        parts = parts_of(pair, storage)
        if parts[0][0] is storage.owner:
            return None
        if why := why_shared(pair, storage):
            return Refusal(storage.record, self.name, why)
        kept = sum(nbytes(part) for part, _ in parts)
        spared = storage.nbytes - kept
        if spared < policy.min_bytes or spared < LEAST * storage.nbytes:
            return None
        count = f"{len(parts)} parts" if len(parts) > 1 else "one part"
        action = f"{count} of it, which the backward reads, copied"
        return Match(Site(storage.record, self.name, action, kept, "exact"), parts)

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Copy after the operator, read the copies in the backward."""
        parts: Parts = match.recipe
        for part, members in parts:
            _keep(pair, part, members)


def _keep(pair: Pair, part: fx.Node, members: tuple[fx.Node, ...]) -> None:
    value = tensor(part)
    order = layout.outermost_first(value.shape, value.stride())

    def copy(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
        # Of a part without gaps `x` is a view, and Inductor takes a clone of one for the view.
        copied = emit(graph, aten.lift_fresh_copy.default, x, like=part)
        copied._rename(f"{part.name}_part")
        return [copied]

    def read(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
        return laid_out(partial(emit, graph, like=part), kept[0], sizes, order)

    substitute(pair, part, members, copy, read)
