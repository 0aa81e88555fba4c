"""An element of a stack is what was stacked: two streams carried as torch.stack([a, b])."""

from __future__ import annotations

import operator

from torch import fx

from fxmem.passes.graph import aten, tensor

Place = tuple[fx.Node, int, int]  # a stack, along which dimension, and which of its elements


def element(node: fx.Node) -> fx.Node | None:
    """Return the tensor of a stack that a node is: of x[i], x.unbind(), or x.select()."""
    place = _place(node)
    if place is None:
        return None
    stack, dim, index = place
    parts = stacked(stack, dim)
    return parts[index] if parts else None


def _place(node: fx.Node) -> Place | None:
    if node.target is aten.select.int:
        stack, dim, index = node.args
    elif node.target is operator.getitem and node.args[0].target is aten.unbind.int:
        unbind, index = node.args
        stack, dim = (*unbind.args, 0)[:2]
    else:
        return None
    return (stack, dim % tensor(stack).dim(), index) if isinstance(index, int) else None


def uncopied(node: fx.Node) -> fx.Node:
    """Return what a node is a copy of, as x.clone() is before an assignment to x[0]."""
    while node.target is aten.clone.default:
        node = node.args[0]
    return node


def stacked(stack: fx.Node, dim: int) -> list[fx.Node] | None:
    """Return what was stacked along `dim`: torch.stack is a concatenation, and a view of it."""
    stack = uncopied(stack)
    whole = uncopied(stack.args[0]) if stack.target is aten.view.default else stack
    if whole.target is not aten.cat.default:
        return None
    parts, axis = (*whole.args, 0)[:2]
    if axis % tensor(whole).dim() != dim:
        return None
    if whole is stack:  # along the last dimension
        raised = all(part.target is aten.unsqueeze.default for part in parts)
        parts = [part.args[0] for part in parts] if raised else []
    return parts if _is_stack(stack, parts, dim) else None


def _is_stack(stack: fx.Node, parts: list[fx.Node], dim: int) -> bool:
    """Compare shapes as they are written, which adds no guards."""
    shapes = {str([*tensor(part).shape]) for part in parts}
    if len(shapes) != 1:
        return False
    shape = [*tensor(parts[0]).shape]
    return str([*shape[:dim], len(parts), *shape[dim:]]) == str([*tensor(stack).shape])
