"""Sharing bits out among residuals: fewer where an error costs little, more where it costs much.

Every residual starts with the preset's width and a group of 64. Queries, keys and values give up a
bit; with the bytes this frees, values under a non-linearity get one more, and the rest a shorter
group: in all never more bytes than the even share. The user may ask for other bits of queries, keys
and values, whose error grows with the logits that they make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxmem import ops
from fxmem.passes.graph import from_tangents
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import is_amplified, is_attended
from fxmem.policy import BITS, GROUPS, Policy

EVEN_GROUP = 64


@dataclass(frozen=True)
class Width:
    """Bits an element and elements a scale."""

    bits: int
    group: int

    def bytes_of(self, elements: Sequence[int]) -> int:
        """Bytes of codes and scales of tensors with these numbers of elements."""
        return sum(ops.encoded_bytes(n, self.bits, self.group) for n in elements)


def allocate(
    pair: Pair, residuals: dict[Storage, Sequence[int]], policy: Policy
) -> dict[Storage, Width]:
    """Return a width for each residual.

    Args:
        residuals: for each storage to be encoded, the numbers of elements of its parts.
    """
    even = Width(policy.width, policy.group or EVEN_GROUP)
    attended = [storage for storage in residuals if is_attended(pair, storage)]
    if policy.bits is not None or policy.group is not None:
        widths = dict.fromkeys(residuals, even)
    else:
        widths = _shared_out(pair, residuals, attended, even)
    asked = policy.option("encode", "attention", None)
    return widths if asked is None else widths | dict.fromkeys(attended, Width(asked, even.group))


def _shared_out(
    pair: Pair, residuals: dict[Storage, Sequence[int]], attended: list[Storage], even: Width
) -> dict[Storage, Width]:
    thin = Width(max(even.bits - 1, min(BITS)), max(GROUPS))
    widths = dict.fromkeys(residuals, even) | dict.fromkeys(attended, thin)
    funds = sum(
        even.bytes_of(parts) - widths[storage].bytes_of(parts)
        for storage, parts in residuals.items()
    )
    for storage, wider in _wishes(pair, residuals, widths, even):
        price = wider.bytes_of(residuals[storage]) - widths[storage].bytes_of(residuals[storage])
        if price <= funds:
            funds -= price
            widths[storage] = wider
    return widths


def _wishes(
    pair: Pair, residuals: dict[Storage, Sequence[int]], widths: dict[Storage, Width], even: Width
) -> list[tuple[Storage, Width]]:
    """Return who would use more bytes best, the most sensitive first."""
    short = Width(even.bits, min(GROUPS))
    deep = Width(even.bits + 1, even.group) if even.bits < max(BITS) else short
    others = [storage for storage in residuals if widths[storage] == even]
    tainted = from_tangents(pair.backward.graph)
    amplified = [storage for storage in others if is_amplified(pair, storage, tainted)]
    rest = [storage for storage in others if storage not in amplified]
    return [(storage, deep) for storage in amplified] + [(storage, short) for storage in rest]
