"""What operators of traced graphs do to their elements, whatever rule asks."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten, prims = torch.ops.aten, torch.ops.prims
CAST = prims.convert_element_type.default
CASTS = (CAST, aten._to_copy.default)
CAST_NAMES = {str(target.overloadpacket) for target in CASTS}  # as op_name says them
LITERALS = (aten.full.default, aten.scalar_tensor.default, aten.lift_fresh_copy.default)


def is_cast(node: Any) -> bool:
    """Whether a node is its first argument in another dtype or place."""
    return node.target in CASTS


def uncast(node: fx.Node) -> fx.Node:
    """Return what a node is a cast of, or casts of casts; else the node itself."""
    while is_cast(node):
        node = node.args[0]
    return node


def is_drawn(node: fx.Node) -> bool:
    """Whether an operator draws random numbers of its own."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_pointwise(node: fx.Node) -> bool:
    """Whether each element is a function of one of each argument, and none is drawn."""
    tagged = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return is_cast(node) or (tagged and not is_drawn(node))
