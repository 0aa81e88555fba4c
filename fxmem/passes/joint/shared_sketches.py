"""One sketch for all layers of one input, compiled as in eager mode: q, k and v; gate and up."""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import is_view, tensor

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
            same = first.setdefault((name, _source(x), str(tensor(x).shape), *drawn), node)
            if same is not node:
                node.replace_all_uses_with(same)


def _source(x: fx.Node) -> tuple:
    """Return what says which tensor a view is: its storage's owner and how it was made."""
    made: list[tuple] = []
    while is_view(x) and len(x.all_input_nodes) == 1:
        made.append((str(x.target), str(x.args[1:]), str(x.kwargs)))
        x = x.args[0]
    return x, *made
