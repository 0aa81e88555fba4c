"""What lies between a linear layer and its loss: casts, and the moving of rows.

To pick, order or shape rows of the logits is to do so with the rows of what the layer reads. So
whatever is found here is either dropped or done to the layer's input instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxmem.passes.forward.dialect import op
from fxmem.passes.forward.emit import emit
from fxmem.passes.forward.traced import dtype_of, shape_of

CASTS = {"float", "to", "_to_copy", "convert_element_type", "type", "contiguous", "clone"}
SHAPES = {"view", "reshape", "_unsafe_view"}
SWAPS = {"transpose", "swapaxes", "swapdims", "permute", "mT"}
# Which argument names the dimension that is picked from, or kept off.
PICKS = {"slice": 1, "select": 1, "narrow": 1, "unsqueeze": 1, "squeeze": 1}


def why_not(node: fx.Node, classes: int | torch.SymInt, last: bool) -> str | None:
    """Return why a node between a layer and its loss cannot be moved before the layer.

    `last`: nothing lies between it and the loss, so it may move the classes to dimension 1.
    """
    name, shape = op(node), shape_of(node)
    if name in CASTS:
        return _why_no_cast(node)
    if shape is None or not isinstance(node.args[0], fx.Node):
        return f"no tracer has noted the shape of {node.name}"
    if name in SWAPS:
        at = classes_at(node)
        taken = at == len(shape) - 1 or (last and len(shape) == 3 and at == 1)
        return None if taken else f"{node.name} moves the classes elsewhere"
    if name not in SHAPES | {"flatten", "getitem"} | PICKS.keys():
        return f"{node.name} lies between the linear layer and the loss"
    if len(shape) < 2 or not same(shape[-1], classes) or not _keeps_classes(node):
        return f"{node.name} takes the classes of a row apart"
    return None


def classes_at(node: fx.Node) -> int | None:
    """Return where a node puts classes that lay last, None where the graph does not say."""
    last = len(shape_of(node)) - 1
    if op(node) not in SWAPS:
        return last
    order = _order(node)
    return order.index(last) if order else None


def _order(swap: fx.Node) -> list[int] | None:
    """Return which dimension of its input each dimension of a swap's value is."""
    if len(swap.all_input_nodes) > 1:
        return None
    # Sizes of a graph may be equal: of what is swapped here no two are.
    distinct = torch.empty(*range(len(shape_of(swap))), device="meta")
    return list(_target(swap)(distinct, *swap.args[1:], **swap.kwargs).shape)


def same(size: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    """Whether two sizes agree as they are written: to compare them would specialise a graph."""
    return str(size) == str(other)


def _why_no_cast(node: fx.Node) -> str | None:
    before, after = dtype_of(node.args[0]), dtype_of(node)
    if after is None and op(node) in ("float", "contiguous", "clone"):
        return None
    lossless = (after in (before, torch.float32) and before != torch.float64) or after == before
    return None if after and lossless else f"{node.name} casts the logits to {after}"


def _keeps_classes(node: fx.Node) -> bool:
    """Whether picking, or adding dimensions, leaves the last dimension alone."""
    name, rank = op(node), len(shape_of(node.args[0]) or ())
    if name in PICKS:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        sized = rank + (name == "unsqueeze")
        return isinstance(dim, int) and dim % max(sized, 1) < sized - 1
    if name != "getitem":
        return True
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if not all(isinstance(i, int | slice) or i is Ellipsis for i in index):
        return False
    reaches = index[-1] is not Ellipsis and (Ellipsis in index or len(index) == rank)
    return not reaches or index[-1] in (slice(None), slice(0, None))


def moved(graph: fx.Graph, node: fx.Node, hidden: fx.Node, width: Any) -> fx.Node:
    """Return `hidden` with what a node does to the rows of the logits done to it."""
    name = op(node)
    if name in CASTS:
        return hidden
    if name in SWAPS:
        order = _order(node)
        dims = [*(dim for dim in order if dim != max(order)), max(order)]
        return hidden if dims == sorted(order) else emit(graph, hidden, torch.permute, hidden, dims)
    if name in SHAPES:
        sizes = [*node.args[1:], *node.kwargs.values()]
        sizes = sizes[0] if isinstance(sizes[0], list | tuple) else sizes
        return emit(graph, hidden, torch.reshape, hidden, [*sizes[:-1], width])
    return emit(graph, hidden, _target(node), hidden, *node.args[1:], **node.kwargs)


def _target(node: fx.Node) -> Callable:
    return getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
