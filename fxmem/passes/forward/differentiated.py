"""What a graph differentiates itself: by torch.func, in forward mode, or to do so once more.

Dynamo writes all of that into its graphs. What the rules put there has one backward, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxmem.passes.forward.effects import LEVELS
from fxmem.passes.graph import ancestors

TRANSFORMED = (
    "torch.func or forward mode differentiates it in this graph: only torch's operators bear that"
)
AGAIN = "its gradient is differentiated again in this graph: what that needs would not be kept"
GRAD = ("outputs", "inputs", "grad_outputs", "retain_graph", "create_graph")


def differentiated(graph: fx.Graph) -> dict[fx.Node, str]:
    """Return the nodes that a graph itself differentiates otherwise than once, each with how.

    Those within a level of torch.func or of forward mode, and those that a gradient leads through
    that was taken with create_graph=True.
    """
    found: dict[fx.Node, str] = {}
    depth = 0
    for node in graph.nodes:
        depth += LEVELS.get(getattr(node.target, "__name__", ""), 0)
        if depth:
            found[node] = TRANSFORMED
        if node.target is torch.autograd.grad:
            found |= dict.fromkeys(_again(node), AGAIN)
    return found


def _again(call: fx.Node) -> Iterable[fx.Node]:
    given = {**dict(zip(GRAD, call.args, strict=False)), **call.kwargs}
    if not given.get("create_graph"):
        return []
    above = set(ancestors(_nodes(given["outputs"]), lambda node: False))
    below = set(_nodes(given["inputs"]))
    inputs = frozenset(below)
    for node in call.graph.nodes:
        if not below.isdisjoint(node.all_input_nodes):
            below.add(node)
    return above & below - inputs


def _nodes(given: Any) -> list[fx.Node]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, fx.Node)]
