"""Whole numbers made of the caller's inputs alone are made of them again: those are there anyway.

So are shifted labels, parts of a table's columns, and masks of what equals a label.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import aten, is_view, prefer_recompute, tensor
from fxmem.passes.joint.copies import COPIES
from fxmem.passes.operators import is_pointwise

CREATED = (torch.ops.prims.iota.default, aten.full.default)


def recompute_integers(joint: fx.GraphModule) -> None:
    """Mark whole numbers that operators without sums or chance make of inputs."""
    made: set[fx.Node] = set()
    for node in joint.graph.nodes:
        if not _is_whole(node) or not made.issuperset(node.all_input_nodes):
            continue
        if node.op == "placeholder":
            made.add(node)
        elif node.meta.get("recompute") != CheckpointPolicy.MUST_SAVE and _is_cheap(node):
            made.add(node)
            if node.all_input_nodes:
                prefer_recompute(node)


def _is_whole(node: fx.Node) -> bool:
    value = tensor(node)
    return value is not None and not (value.is_floating_point() or value.is_complex())


def _is_cheap(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    copied = is_view(node) or node.target.overloadpacket in (aten.clone, *COPIES)
    return copied or is_pointwise(node) or node.target in CREATED
