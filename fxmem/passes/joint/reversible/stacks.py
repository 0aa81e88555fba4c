"""The sum of a stack is what was stacked, added up: torch.stack([a, f]).sum(0) is a + f."""

from __future__ import annotations

from functools import partial, reduce

from torch import fx

from fxmem.passes.emit import emit
from fxmem.passes.graph import aten, from_tangents, tensor
from fxmem.passes.joint.reversible.elements import stacked
from fxmem.passes.joint.reversible.layouts import strides
from fxmem.passes.joint.reversible.scatters import MOST

TOTALS = (aten.sum.dim_IntList, aten.mean.dim)


def totals(graph: fx.Graph) -> list[fx.Node]:
    """Return sums and means over stacks in the forward of a joint graph."""
    nodes = [n for target in TOTALS for n in graph.find_nodes(op="call_function", target=target)]
    gradients = from_tangents(graph) if nodes else set()
    return [node for node in nodes if node not in gradients and _parts(node)]


def add_up(graph: fx.Graph) -> None:
    """Compute them by additions, those of which each carries a state on."""
    for node in totals(graph):
        parts = _parts(node)  # another sum may have been one of them
        with graph.inserting_before(node):
            emitted = partial(emit, graph, like=node)
            total = reduce(partial(emitted, aten.add.Tensor), parts)
            if node.target is aten.mean.dim:
                total = emitted(aten.div.Tensor, total, len(parts))
        if strides(total) == strides(node):
            node.replace_all_uses_with(total)
    graph.eliminate_dead_code()


def _parts(node: fx.Node) -> list[fx.Node] | None:
    """Return what was stacked, if a node adds up just that, and in its own dtype."""
    stack, dims, *keeps_dim = node.args
    rank = tensor(stack).dim()
    # Without dimensions, or None in their place, it is the sum of all elements; so is a scalar's.
    if not dims or len(dims) != 1 or not rank or any(keeps_dim) or node.kwargs:
        return None
    parts = stacked(stack, dims[0] % rank)
    alike = parts and all(tensor(part).dtype == tensor(node).dtype for part in parts)
    return parts if alike and 1 < len(parts) <= MOST else None
