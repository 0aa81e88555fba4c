"""A floating residual is kept as integers of a few bits, with a scale a group."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.passes.emit import Sizes, emit
from fxmem.passes.graph import numel, tensor
from fxmem.passes.pair.allocate import Width, allocate
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.parts import Parts, parts_of
from fxmem.passes.pair.rewrite import is_dense, substitute
from fxmem.passes.pair.sensitivity import is_linear
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy


@dataclass(frozen=True)
class Recipe:
    """What is encoded and how."""

    parts: Parts
    width: Width
    stochastic: bool


class Encode:
    """float[n] -> (codes: int[n], scale a group); the backward reads the decoded values."""

    name = "encode"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match big floating storages that nothing obliges to be exact."""
        refusal = refusals(pair, policy) if policy.lossy else None
        refused = {s: _refuse(pair, s, policy, refusal) for s in storages}
        parts = {
            storage: parts_of(pair, storage) for storage in storages if refused[storage] is None
        }
        elements = {s: [numel(source) for source, _ in parts[s]] for s in parts}
        widths = allocate(pair, elements, policy) if parts else {}
        answers: list[Match | Refusal | None] = []
        for storage in storages:
            if storage in parts:
                kept = widths[storage].bytes_of(elements[storage])
                answers.append(_site(pair, storage, parts[storage], widths[storage], kept, policy))
            elif tensor(storage.owner).dtype == torch.bool:
                answers.append(None)
            else:
                answers.append(Refusal(storage.record, self.name, refused[storage]))
        return answers

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Encode after the producer, decode before the first use."""
        for source, members in match.recipe.parts:
            _encode_part(pair, source, members, match.recipe)


def _refuse(
    pair: Pair, storage: Storage, policy: Policy, refusal: Callable[[Storage], str | None] | None
) -> str | None:
    if not policy.allows(Encode.name):
        return f"rules forbid {Encode.name!r}"
    if refusal is None:
        return f"preset {policy.preset!r} keeps it exactly"
    why = refusal(storage)
    if why is None and parts_of(pair, storage)[0][0] is storage.owner:
        return None if is_dense(tensor(storage.owner)) else "it has gaps in memory"
    return why


def _site(
    pair: Pair, storage: Storage, parts: Parts, width: Width, kept: int, policy: Policy
) -> Match | Refusal:
    if kept >= storage.nbytes:
        return Refusal(storage.record, Encode.name, f"{width.bits} bits would not be fewer bytes")
    stochastic = policy.rounding == "stochastic"
    guarantee = "unbiased" if stochastic and is_linear(pair, storage) else "bounded"
    action = f"{width.bits} bits, groups of {width.group}" + (", stochastic" if stochastic else "")
    site = Site(storage.record, Encode.name, action, kept, guarantee)
    return Match(site, Recipe(parts, width, stochastic))


def _encode_part(pair: Pair, source: fx.Node, members: tuple[fx.Node, ...], recipe: Recipe) -> None:
    value, bits, group = tensor(source), recipe.width.bits, recipe.width.group

    def encode(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
        seeds = torch.ops.prims.inductor_seeds.default
        seed = emit(graph, seeds, 1, value.device) if recipe.stochastic else None
        both = emit(graph, torch.ops.fxmem.encode.default, x, bits, group, seed, like=source)
        kept = [emit(graph, operator.getitem, both, i, like=source) for i in (0, 1)]
        for node, suffix in zip(kept, ("codes", "scales"), strict=True):
            node._rename(f"{source.name}_{suffix}")
        return kept

    def decode(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
        target = torch.ops.fxmem.decode.default
        layout = (sizes, strides, bits, group, value.dtype)
        return emit(graph, target, *kept, *layout, like=source)

    substitute(pair, source, members, encode, decode)
