"""New nodes of FX graphs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

Emit = Callable[..., fx.Node]  # adds a node to a graph: emitted(operator, *arguments)
Sizes = Sequence[int | fx.Node]
# What new nodes inherit from the value that they stand for: its origin, for reports and profiles.
ORIGIN = (
    "nn_module_stack",
    "fwd_nn_module_stack",
    "stack_trace",
    "original_aten",
    "from_node",
    "seq_nr",
)


def emit(
    graph: fx.Graph, target: Callable, *args: Any, like: fx.Node | None = None, **kwargs: Any
) -> fx.Node:
    """Add a node at the graph's insertion point; its fake kernel says what it computes.

    Args:
        like: the node whose origin (module, stack trace) the new one inherits, and whose fake mode
            where no argument is a node.
        kwargs: no nodes among them.
    """
    node = graph.call_function(target, args, kwargs)
    values = fx.map_arg(args, lambda n: n.meta["val"])
    beside = None if like is None else like.meta.get("val")
    fake_mode = detect_fake_mode(torch.utils._pytree.tree_leaves((values, beside)))
    if target is operator.getitem or fake_mode is None:
        node.meta["val"] = target(*values, **kwargs)
    else:
        with fake_mode:
            node.meta["val"] = target(*values, **kwargs)
    if like is not None:
        node.meta.update(origin(like))
    return node


def origin(node: fx.Node) -> dict[str, Any]:
    """Return what a node that stands for another inherits: its module, its stack trace."""
    return {key: node.meta[key] for key in ORIGIN if key in node.meta}
