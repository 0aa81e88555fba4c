"""One sketch for all layers of one input, compiled as in eager mode: q, k and v; gate and up."""

from __future__ import annotations

from torch import fx

from fxmem.passes.joint.sketches.products import value_of

SKETCHES = ("fxmem::keyed_sketch", "fxmem::sample")
ASKED = ("recompute", "ac_graph_id")  # of torch.utils.checkpoint


def share_sketches(joint: fx.GraphModule) -> None:
    """Let the first sketch of a tensor serve where another of as many rows is drawn of it."""
    first: dict[tuple, fx.Node] = {}
    for node in joint.graph.nodes:
        target = node.target
        name = target.name() if node.op == "call_function" and hasattr(target, "name") else ""
        if name in SKETCHES and not any(node.meta.get(key) for key in ASKED):
            x, *drawn = node.args[:-1]  # all but the seed
            same = first.setdefault((name, value_of(x), *drawn), node)
            if same is not node:
                node.replace_all_uses_with(same)
