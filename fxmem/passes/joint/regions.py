"""What leaves a region under torch.utils.checkpoint is kept, if the backward needs it.

With the ban on recompute lifted, a cheap operator between two regions would let min-cut recompute
through it: then the backward of the last region recomputes all those before it, and holds them.
"""

from __future__ import annotations

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import ancestors

RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


def keep_region_outputs(joint: fx.GraphModule, num_outputs: int) -> None:
    """Mark what the forward reads from a checkpointed region, outside it, to be kept."""
    outputs = joint.graph.output_node().args[0][:num_outputs]
    forward = set(ancestors([n for n in outputs if isinstance(n, fx.Node)], lambda n: False))
    for node in forward:
        region = node.meta.get("ac_graph_id")
        if region is None or node.meta.get("recompute") not in RECOMPUTED:
            continue
        users = [user for user in node.users if user in forward]
        if any(user.meta.get("ac_graph_id") != region for user in users):
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
