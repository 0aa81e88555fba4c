"""New nodes in place of a cone: with its origin, and with the metadata that its graph has."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

import fxmem.ops  # noqa: F401  the operators that rules emit are defined there
from fxmem.passes.emit import origin
from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.effects import readers

VALUES = ("val", "example_value")


def emit(graph: fx.Graph, like: fx.Node, target: Callable, *args: Any, **kwargs: Any) -> fx.Node:
    """Add a call at the insertion point; its fake kernel says what it computes where tracers do."""
    node = graph.call_function(target, args, kwargs)
    node.meta = origin(like)
    for key in VALUES:
        mode = getattr(like.meta.get(key), "fake_mode", None)
        if mode is not None:
            values = fx.map_arg(args, lambda n, key=key: n.meta[key])
            node.meta[key] = _fake(mode, target, values, kwargs)
    return node


def _fake(mode: FakeTensorMode, target: Callable, values: Any, kwargs: dict[str, Any]) -> Any:
    if target is operator.getitem:
        return target(*values)
    with mode:
        return target(*tree_map_only(torch.Tensor, _empty, values), **kwargs)


def _empty(value: torch.Tensor) -> torch.Tensor:
    """Return a twin in the current fake mode: make_fx gives every node a mode of its own."""
    size, stride = value.size(), value.stride()
    return torch.empty_strided(size, stride, dtype=value.dtype, device=value.device)


def first(graph: fx.Graph, like: fx.Node, target: Callable, *args: Any) -> fx.Node:
    """Add a call that returns several values; return its first."""
    return emit(graph, like, operator.getitem, emit(graph, like, target, *args), 0)


def replace(graph: fx.Graph, activation: Activation, output: fx.Node) -> None:
    """Let `output` stand for an activation's, and erase what nothing reads any more."""
    cone = activation.cone
    erase_idle(graph, cone.exit)
    if activation.cast:
        cone.exit.update_arg(0, output)
    else:
        cone.exit.replace_all_uses_with(output)
    for node in reversed(cone.nodes):
        erase(graph, node, cone.constants)


def erase(graph: fx.Graph, node: fx.Node, constants: Container[fx.Node] = ()) -> None:
    """Erase a node without readers, and the constants and dtypes that only it has read."""
    if readers(node):
        return
    erase_idle(graph, node)
    inputs = node.all_input_nodes
    graph.erase_node(node)
    for given in inputs:
        if not given.users and (given in constants or given.target is builtins.getattr):
            erase(graph, given, constants)


def erase_idle(graph: fx.Graph, node: fx.Node) -> None:
    """Erase the users of a node that compute nothing with it."""
    for user in node.users.keys() - set(readers(node)):
        graph.erase_node(user)
