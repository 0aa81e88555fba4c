"""Random masks are recomputed from their seeds: a dropout mask costs eight bytes, not one an element.

Inductor's joint passes have by then given every random op an explicit seed, so that recomputing it
yields the same bits. Only the random op and the comparison that makes the mask are marked: what
else is recomputed remains the cut's decision.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import tensor

prims = torch.ops.prims


def recompute_random(joint: fx.GraphModule) -> None:
    """Mark seeded random ops, and the masks made of them, to be recomputed in the backward."""
    # Registered by Inductor, so looked up only once its passes have run.
    seeded = {getattr(prims, name).default for name in ("inductor_random", "inductor_randint")}
    for node in joint.graph.nodes:
        if node.target in seeded:
            _prefer_recompute(node)
            for user in node.users:
                if tensor(user) is not None and tensor(user).dtype == torch.bool:
                    _prefer_recompute(user)


def _prefer_recompute(node: fx.Node) -> None:
    # What the user asked for with torch.utils.checkpoint comes first.
    node.meta.setdefault("recompute", CheckpointPolicy.PREFER_RECOMPUTE)
