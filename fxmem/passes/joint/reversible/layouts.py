"""Values that replace others: what their layout in memory changes downstream."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx
from torch._guards import detect_fake_mode

from fxmem.compat import hint
from fxmem.passes.graph import aten, tensor


def strides(node: fx.Node) -> str | None:
    """Return a tensor's strides as they are written: comparing them adds no guards."""
    value = tensor(node)
    return None if value is None else str(value.stride())


def retrace(node: fx.Node) -> None:
    """Compute a node's value again, for its operands are laid out otherwise."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with detect_fake_mode(torch.utils._pytree.tree_leaves(args)):
        node.meta["val"] = node.target(*args, **kwargs)


def retrace_users(nodes: Iterable[fx.Node]) -> None:
    """Compute what is made of `nodes` again, as far as layouts differ from those that it had."""
    changed = set(nodes)
    if not changed:
        return
    for node in next(iter(changed)).graph.nodes:
        if node.op == "call_function" and not changed.isdisjoint(node.all_input_nodes):
            before = strides(node)
            retrace(node)
            if before is None or strides(node) != before:
                changed.add(node)


def laid_out(value: fx.Node, like: fx.Node, emitted: Callable[..., fx.Node]) -> fx.Node:
    """Return a value in the memory order of the one that it stands for: views of that expect it.

    For a part of something else that is its order without the gaps.
    """
    fake = tensor(like)
    with detect_fake_mode([fake]):
        wanted = torch.empty_like(fake).stride()
    if strides(value) == str(wanted):
        return value
    order = sorted(range(len(wanted)), key=lambda i: -(hint(wanted[i]) or 0))
    ordered = emitted(aten.permute.default, value, order)
    dense = emitted(aten.clone.default, ordered, memory_format=torch.contiguous_format)
    back = [order.index(i) for i in range(len(order))]
    return emitted(aten.permute.default, dense, back)
