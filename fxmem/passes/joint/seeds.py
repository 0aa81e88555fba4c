"""Random masks are recomputed from their seeds: eight bytes each instead of one an element.

Inductor's joint passes have by then given every random op an explicit seed, so that recomputing it
yields the same bits. Only the random op and the comparison that makes the mask are marked: what
else is recomputed remains the cut's decision.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import prefer_recompute, tensor

prims = torch.ops.prims


def recompute_random(joint: fx.GraphModule) -> None:
    """Mark seeded random ops, and the masks made of them, to be recomputed in the backward."""
    # Registered by Inductor, so looked up only once its passes have run.
    seeded = {getattr(prims, name).default for name in ("inductor_random", "inductor_randint")}
    for node in joint.graph.nodes:
        if node.target in seeded:
            prefer_recompute(node)
            for user in node.users:
                if tensor(user) is not None and tensor(user).dtype == torch.bool:
                    prefer_recompute(user)


def keep_seeds(joint: fx.GraphModule) -> None:
    """Forbid recompute of the seeds themselves: drawn again, they would be others."""
    drawn = {getattr(prims, name).default for name in ("inductor_seed", "inductor_seeds")}
    for node in joint.graph.nodes:
        if node.target in drawn:
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
