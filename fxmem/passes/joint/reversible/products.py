"""Products with an added state, as torch.addmm(a, x, w, beta=b) has it: a product, and a sum.

Inductor joins the two again where that is faster.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.emit import emit
from fxmem.passes.graph import aten, tensor

PRODUCTS = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}


def sums(graph: fx.Graph) -> list[fx.Node]:
    """Return the products to which a tensor of their own size is added: no bias, then."""
    nodes = [n for target in PRODUCTS for n in graph.find_nodes(op="call_function", target=target)]
    return [node for node in nodes if node.kwargs.get("beta", 1) != 0 and _is_whole(node)]


def _is_whole(node: fx.Node) -> bool:
    """Compare shapes as they are written, which adds no guards."""
    return str(tensor(node.args[0]).shape) == str(tensor(node).shape)


def split(graph: fx.Graph) -> None:
    """Compute these products and their sums by an operator each."""
    for node in sums(graph):
        state, *factors = node.args
        with graph.inserting_before(node):
            product = emit(graph, PRODUCTS[node.target], *factors, like=node)
            how = dict(node.kwargs)
            if (beta := how.pop("beta", 1)) != 1:
                state = emit(graph, aten.mul.Tensor, state, beta, like=node)
            added = emit(graph, aten.add.Tensor, state, product, like=node, **how)
        node.replace_all_uses_with(added)
        graph.erase_node(node)
