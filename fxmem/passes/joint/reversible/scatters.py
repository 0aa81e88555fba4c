"""Streams that are written into slices of one tensor: the tensor after it is a concatenation.

x[:, :n] += F(x[:, n:]) is traced as slice_scatter(x, x[:, :n] + F(x[:, n:])), of which a slice is
no part that could be seen; x[0] = x[0] + F(x[1]) as select_scatter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import fx

from fxmem.passes.emit import Emit, emit
from fxmem.passes.graph import aten, from_tangents, tensor
from fxmem.passes.joint.reversible.layouts import strides

# Tensors in one that is read as a stack of streams: more are rows of something else.
MOST = 8


def scatters(graph: fx.Graph) -> list[fx.Node]:
    """Return the scatters in the forward of a joint graph that concatenations stand for."""
    nodes = [n for target in JOINED for n in graph.find_nodes(op="call_function", target=target)]
    gradients = from_tangents(graph) if nodes else set()
    return sorted(node for node in nodes if node not in gradients and _is_plain(node))


def _is_plain(node: fx.Node) -> bool:
    """Whether its sizes are known, and it lies in memory as a concatenation would."""
    value = tensor(node)
    return all(isinstance(size, int) for size in value.shape) and value.is_contiguous()


def concatenate(graph: fx.Graph) -> None:
    """Put concatenations in place of scatters."""
    for node in scatters(graph):
        with graph.inserting_before(node):
            joined = JOINED[node.target](node, partial(emit, graph, like=node))
        if joined is not None and strides(joined) == strides(node):
            node.replace_all_uses_with(joined)
    graph.eliminate_dead_code()


def _slices(node: fx.Node, emitted: Emit) -> fx.Node | None:
    whole, source, dim, start, end, step = (*node.args, *(0, None, None, 1)[len(node.args) - 2 :])
    size = tensor(whole).shape[dim]
    start, end, _ = slice(start, end).indices(size)
    if step != 1 or start >= end:
        return None
    before = [emitted(aten.slice.Tensor, whole, dim, 0, start)] if start else []
    after = [emitted(aten.slice.Tensor, whole, dim, end, size)] if end < size else []
    return emitted(aten.cat.default, [*before, _written(source), *after], dim)


def _elements(node: fx.Node, emitted: Emit) -> fx.Node | None:
    whole, source, dim, index = node.args
    shape = [*tensor(whole).shape]
    dim, count = dim % len(shape), shape[dim]
    if count > MOST or dim == len(shape) - 1:
        return None
    parts = [emitted(aten.select.int, whole, dim, i) for i in range(count)]
    parts[index] = _written(source)
    return emitted(aten.view.default, emitted(aten.cat.default, parts, dim), shape)


def _written(source: fx.Node) -> fx.Node:
    """Return what an assignment copies: copy(x[0], value) is the value, laid out as x[0]."""
    if source.target is not aten.copy.default:
        return source
    value, place = tensor(source.args[1]), tensor(source)
    return source.args[1] if (value.dtype, value.shape) == (place.dtype, place.shape) else source


JOINED: dict[Callable, Callable[..., fx.Node | None]] = {
    aten.slice_scatter.default: _slices,
    aten.select_scatter.default: _elements,
}
