"""A chunk of a concatenation is the part that was concatenated: two streams carried as one tensor.

Users write `a, b = x.chunk(2); ...; x = cat([a, y])` for every block; then each state would seem to
be made of both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from fxmem.passes.graph import aten, tensor
from fxmem.passes.joint.reversible.elements import element, uncopied
from fxmem.passes.joint.reversible.layouts import retrace_users, strides

SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)


def chunks(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Return the chunks of concatenations in a joint graph, each with the part that it is."""
    if graph.find_nodes(op="call_function", target=aten.as_strided.default):
        return []  # reads memory as it lies, and a part lies otherwise
    pairs = ((node, _part(node)) for node in graph.nodes)
    return [(node, part) for node, part in pairs if part is not None]


def see_through(graph: fx.Graph) -> None:
    """Read parts instead of chunks."""
    found = dict(chunks(graph))
    for chunk, part in found.items():
        while part in found:  # a chunk of a concatenation itself
            part = found[part]
        chunk.replace_all_uses_with(part)
    graph.eliminate_dead_code()
    retrace_users(part for part in found.values() if part not in found)


def _part(node: fx.Node) -> fx.Node | None:
    if (found := element(node)) is not None:
        return found if _replaces(found, node) else None
    place = _place(node)
    if place is None:
        return None
    whole, dim, start = uncopied(place[0]), *place[1:]
    if whole.target is not aten.cat.default:
        return None
    axis = whole.args[1] if len(whole.args) > 1 else 0
    if (axis - dim) % tensor(whole).dim():
        return None
    parts = dict(_offsets(whole.args[0], dim))
    return parts[start] if start in parts and _replaces(parts[start], node) else None


def _place(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """Return what a node is a chunk of, along which dimension, and where it begins."""
    if node.target is aten.slice.Tensor:
        whole, dim, start, _, step = (*node.args, *(0, 0, None, 1)[len(node.args) - 1 :])
        return (whole, dim, start or 0) if step == 1 and isinstance(start or 0, int) else None
    if node.target is operator.getitem and node.args[0].target in SPLITS:
        split, index = node.args
        whole, size, dim = (*split.args, *(0,)[len(split.args) - 2 :])
        sizes = size[:index] if isinstance(size, list | tuple) else [size] * index
        return (whole, dim, sum(sizes)) if all(isinstance(s, int) for s in sizes) else None
    return None


def _offsets(parts: list[fx.Node], dim: int) -> Iterator[tuple[int, fx.Node]]:
    start = 0
    for part in parts:
        yield start, part
        size = tensor(part).shape[dim]
        if not isinstance(size, int):
            return
        start += size


def _replaces(part: fx.Node, chunk: fx.Node) -> bool:
    """Whether whatever reads the chunk may read the part, views of it among others."""
    value, wanted = tensor(part), tensor(chunk)
    if value.dtype != wanted.dtype or str(value.shape) != str(wanted.shape):
        return False
    dense = not any(isinstance(s, torch.SymInt) for s in value.stride()) and value.is_contiguous()
    return dense or strides(part) == strides(chunk)
