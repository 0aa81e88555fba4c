"""Products that a reversible chain keeps rather than computes again: time bought with bytes.

Matrix products, convolutions and attention in the branches are nearly all of what recomputing
costs. A share of their bytes may be kept, those first that take the most arithmetic a byte: the
last product of an MLP reads four times what it writes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy
from torch.utils.flop_counter import flop_registry

from fxmem.compat import hint
from fxmem.passes.graph import aten, nbytes, tensor
from fxmem.passes.joint.reversible.layouts import strides

# How much longer an operation of attention takes than one of a matrix product, for its exponentials
# and small tiles: 2.5 was measured on a CPU, 128 tokens.
ATTENTION = 2.5
# torch counts nothing for attention on a CPU.
ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu
COUNTED = aten._scaled_dot_product_flash_attention


def spare(graph: fx.Graph, repeated: Mapping[fx.Node, fx.Node], share: float) -> str:
    """Let the backward read the forward's own products in place of some that it would repeat.

    Args:
        repeated: by what is computed a second time, the first of it.
        share: of the bytes of all products, 0 to 1, that may be kept.

    Returns: a note that says how many are kept.
    """
    graph.eliminate_dead_code()
    costs = {node: cost for node in graph.nodes if node in repeated and (cost := _cost(node))}
    sizes = {node: sum(map(nbytes, _outputs(node))) for node in costs}
    allowed, kept = share * sum(sizes.values()), 0
    for node in sorted(costs, key=lambda n: -costs[n] / max(sizes[n], 1)):
        if sizes[node] <= allowed and _same_layout(node, repeated):
            allowed -= sizes[node]
            kept += 1
            _keep(node, repeated)
    graph.eliminate_dead_code()
    return f"reversible: {kept} products of {len(costs)} are kept, not computed again"


def _keep(node: fx.Node, repeated: Mapping[fx.Node, fx.Node]) -> None:
    for output in _outputs(node):
        if output in repeated:
            output.replace_all_uses_with(repeated[output])
        else:  # what the backward alone reads, as the sums of attention's softmax
            output.replace_input_with(node, repeated[node])
        first = repeated.get(output, output)
        if tensor(first) is not None:
            first.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def _outputs(node: fx.Node) -> list[fx.Node]:
    if tensor(node) is not None:
        return [node]
    return [user for user in node.users if user.target is operator.getitem]


def _same_layout(node: fx.Node, repeated: Mapping[fx.Node, fx.Node]) -> bool:
    pairs = ((output, repeated[output]) for output in _outputs(node) if output in repeated)
    return all(strides(output) == strides(first) for output, first in pairs)


def _cost(node: fx.Node) -> float:
    """Return the operations of a product, 0 for anything else."""
    packet = getattr(node.target, "overloadpacket", None)
    formula = flop_registry.get(COUNTED if packet is ON_CPU else packet)
    if formula is None:
        return 0.0
    args, kwargs = fx.map_arg((node.args, node.kwargs), _sized)
    operations = formula(*args, **kwargs, out_val=_sized(_outputs(node)[0]))
    return operations * (ATTENTION if "attention" in str(packet) else 1.0)


def _sized(node: fx.Node) -> torch.Tensor | None:
    """Return a tensor of the sizes that were traced: comparing those adds no guards."""
    value = tensor(node)
    if value is None:
        return None
    return torch.empty([hint(size) or 1 for size in value.shape], device="meta")
