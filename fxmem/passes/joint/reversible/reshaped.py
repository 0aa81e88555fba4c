"""Views and copies between the links of a chain, which are undone by other views."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten, tensor
from fxmem.passes.joint.reversible.steps import Of, Step

SHAPED = (
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
    *(aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims),
)


def reshaped(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a view of another shape is. Sizes that change are nobody's to write."""
    state = node.args[0]
    shape = tensor(state).shape
    if not all(isinstance(size, int) for size in shape):
        return

    def undo(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
        if not tensor(out).is_contiguous():
            out = emit(aten.clone.default, out, memory_format=torch.contiguous_format)
        return emit(aten.view.default, out, list(shape))

    yield Step(node, state, (), undo)


def copied(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a copy is: what comes back is laid out as its state is wanted."""
    yield Step(node, node.args[0], (), lambda emit, out, of: out)


def permuted(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a view in another order is."""
    state, order = node.args[0], _order(node)

    def undo(emit: Emit, out: fx.Node, of: Of) -> fx.Node:
        return emit(aten.permute.default, out, [order.index(i) for i in range(len(order))])

    yield Step(node, state, (), undo)


def _order(node: fx.Node) -> list[int]:
    rank = tensor(node).dim()
    if node.target is aten.permute.default:
        return [dim % rank for dim in node.args[1]]
    order = list(range(rank))
    first, second = node.args[1:] if node.target is aten.transpose.int else (0, -1)
    order[first], order[second] = order[second], order[first]
    return order


VIEWS = {
    **dict.fromkeys(SHAPED, reshaped),
    **dict.fromkeys((aten.permute.default, aten.transpose.int), permuted),
    **{aten.t.default: permuted, aten.clone.default: copied},
}
