"""The parts of a kept storage that the backward reads: views that may be kept in its place."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fxmem.passes.graph import numel, tensor, view_chain
from fxmem.passes.pair.graphs import Pair, Storage

# What is kept (the storage, or those views of it that are needed), each with the kept nodes.
Parts = tuple[tuple[fx.Node, tuple[fx.Node, ...]], ...]


def parts_of(pair: Pair, storage: Storage) -> Parts:
    """Return the whole storage, or views of it where together they are smaller.

    Each kept node is a view of the one that is kept for it, or the very same.
    """
    whole: Parts = ((storage.owner, storage.views),)
    chains = {view: view_chain(view) for view in storage.views}
    nodes = {node for chain in chains.values() for node in chain if tensor(node) is not None}
    if not all(_is_alike(node, storage.owner) for node in nodes):
        return whole
    parts = _merged(_chosen(chains))
    at = storage.views.index
    found = tuple((part, tuple(sorted(parts[part], key=at))) for part in parts)
    found = tuple(sorted(found, key=lambda part: at(part[1][0])))
    known = pair.knows_sizes(replace(storage, views=tuple(parts)))
    return found if known and sum(map(numel, parts)) < numel(storage.owner) else whole


def _is_alike(node: fx.Node, owner: fx.Node) -> bool:
    value = tensor(node)
    plain = value.layout is torch.strided and value.dtype == tensor(owner).dtype
    return plain and numel(node) is not None


def _chosen(chains: dict[fx.Node, list[fx.Node]]) -> dict[fx.Node, list[fx.Node]]:
    """Return the views to keep, with those kept for each: of the tree of all views the least."""
    chosen: dict[fx.Node, list[fx.Node]] = {}
    for node in sorted({n for chain in chains.values() for n in chain}, reverse=True):
        below = [part for part in chosen if node in view_chain(part)]
        fewer = len(below) > 1 and tensor(node) is not None
        if node in chains or (fewer and numel(node) <= sum(map(numel, below))):
            gone = [view for part in below for view in chosen.pop(part)]
            chosen[node] = [node, *gone] if node in chains else gone
    return chosen


def _merged(chosen: dict[fx.Node, list[fx.Node]]) -> dict[fx.Node, list[fx.Node]]:
    """Keep once what two nodes are by different ways from their owner."""
    first: dict[str, fx.Node] = {}
    parts: dict[fx.Node, list[fx.Node]] = {}
    for source, views in sorted(chosen.items(), key=lambda part: (len(part[1]) == 1, part[0])):
        value = tensor(source)
        key = f"{value.shape} {value.stride()} {value.storage_offset()}"
        same = first.setdefault(key, source) if views == [source] else source
        first.setdefault(key, source)
        parts.setdefault(same, []).extend(views)
    return parts
