"""Bits of each residual: more where an error in it grows.

Every residual starts with the preset's width and a group of 64. Attention's operands and
probabilities, what a non-linear function is computed of again, and products of activations, whose
few large values a group's scale must span, have more bits, as far as there are any; where there are
none (8), attention's operands have longer groups, and with the bytes that this frees others have
shorter ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxmem import ops
from fxmem.passes.graph import from_tangents
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import (
    is_amplified,
    is_attended,
    is_probability,
    is_product,
)
from fxmem.policy import BITS, GROUPS, Policy

EVEN_GROUP = 64
# Bits beside the preset's. An error in the product of queries and keys is exponentiated: trainings
# with 3 bits of them end .037 ± .010 nats above exact ones, with 6 bits .018 ± .009
# (benchmarks/convergence.py --group attention), and sharp attention bears less (sharpness.py).
ATTENTION, AMPLIFIED = 2, 1


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
    tainted = from_tangents(pair.backward.graph)
    attended = [storage for storage in residuals if is_attended(pair, storage, tainted)]
    if policy.bits is not None or policy.group is not None:
        widths = dict.fromkeys(residuals, even)
    else:
        others = [s for s in residuals if s not in attended]
        amplified = [
            s for s in others if is_amplified(pair, s, tainted) or is_product(pair, s.owner)
        ]
        widths = _by_need(residuals, attended, amplified, even)
    asked = policy.option("encode", "attention", None)
    return widths if asked is None else widths | dict.fromkeys(attended, Width(asked, even.group))


def _by_need(
    residuals: dict[Storage, Sequence[int]],
    attended: list[Storage],
    amplified: list[Storage],
    even: Width,
) -> dict[Storage, Width]:
    others = [storage for storage in residuals if storage not in attended]
    widths = dict.fromkeys(residuals, even)
    if even.bits < max(BITS):
        probabilities = [storage for storage in others if is_probability(storage.owner)]
        widths |= dict.fromkeys([*attended, *probabilities], _deeper(even, ATTENTION))
        return widths | dict.fromkeys(amplified, _deeper(even, AMPLIFIED))
    widths |= dict.fromkeys(attended, Width(even.bits, max(GROUPS)))
    funds = sum(even.bytes_of(residuals[s]) - widths[s].bytes_of(residuals[s]) for s in attended)
    short = Width(even.bits, min(GROUPS))
    for storage in [*amplified, *(s for s in others if s not in amplified)]:
        price = short.bytes_of(residuals[storage]) - even.bytes_of(residuals[storage])
        if price <= funds:
            funds -= price
            widths[storage] = short
    return widths


def _deeper(width: Width, bits: int) -> Width:
    return Width(min(width.bits + bits, max(BITS)), width.group)
