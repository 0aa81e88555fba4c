"""What is kept of a weight's input is a sketch of it: said here, done before the cut.

It comes after encoding, which may store the sketch itself in fewer bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fxmem.passes.graph import SKETCH_OF
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy


class Sketched:
    """float[n, d] -> float[k, d]: an unbiased gradient of the weight."""

    name = "sketch"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match the storages that are sketches."""
        return [_match(storage) for storage in storages]

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Change nothing."""


def _match(storage: Storage) -> Match | None:
    if SKETCH_OF not in storage.owner.meta:
        return None
    whole, how = storage.owner.meta[SKETCH_OF]
    record = replace(whole, name=storage.record.name)
    return Match(Site(record, "sketch", f"sketched: {how}", storage.nbytes, "unbiased"), None)
