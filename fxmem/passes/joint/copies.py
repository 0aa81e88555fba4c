"""What a layer's neighbour copies for itself is recomputed from what they share.

The cut never recomputes what reads a value after a matrix product has read it, for the two are
seldom fused. An adapter beside a frozen layer is such a reader: it casts their input to its own
dtype and drops elements of it out, and each adapter would keep a copy of its own. Concatenations
are such readers too: each layer of a DenseNet has one of what all before it have made.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import aten, from_tangents, is_view, nbytes, owner, prefer_recompute, tensor
from fxmem.passes.operators import CASTS

FACTORS = (aten.mul.Tensor, aten.div.Tensor)
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.convolution_backward.default)
# Copies that are not on torch's list of what may be recomputed.
COPIES = {
    *(aten.cat, aten.constant_pad_nd, aten.slice_scatter, aten._unsafe_index, aten.embedding),
    *(aten.select_scatter, aten.copy, aten.repeat, aten.unfold, torch.ops.prims.rev),
}


def recompute_copies(joint: fx.GraphModule) -> None:
    """Mark copies that the backward reads, where their sources are no bigger."""
    backward = from_tangents(joint.graph)
    for whole in joint.graph.find_nodes(op="call_function", target=aten.cat.default):
        if whole not in backward and _is_shared(whole, backward):
            prefer_recompute(whole)
    for product in joint.graph.nodes:
        if product.target in PRODUCTS and product in backward:
            for factor in set(product.all_input_nodes) - backward:
                _recompute(factor, backward)


def _is_shared(whole: fx.Node, backward: set[fx.Node]) -> bool:
    """Whether others read what is concatenated, and keeping the parts is no more."""
    readers, parts = _readers(whole), {owner(part) for part in whole.args[0]}
    if any(n.op == "output" for n in readers) or sum(map(nbytes, parts)) > nbytes(whole):
        return False
    return any(_readers(part) - backward - {whole} for part in parts)


def _recompute(factor: fx.Node, backward: set[fx.Node]) -> None:
    chain = [factor]
    while (source := _source(chain[-1])) is not None:
        chain.append(source)
    # Of sources as small the farthest: then what is between them is recomputed as well.
    shared = [n for n in chain[1:] if len(_readers(owner(n)) - backward) > 1]
    source = min(reversed(shared), key=lambda n: nbytes(owner(n)), default=factor)
    copy = chain[: chain.index(source)]
    if nbytes(owner(source)) <= nbytes(owner(factor)) and not all(map(is_view, copy)):
        for node in copy:
            prefer_recompute(node)


def _source(node: fx.Node) -> fx.Node | None:
    """Return what a node is a view, a cast, a multiple or a dropout of, None for any other."""
    if node.meta.get("recompute") == CheckpointPolicy.MUST_SAVE:
        return None
    if is_view(node) or node.target in CASTS:
        return node.args[0]
    if node.target not in FACTORS:
        return None
    values = [n for n in node.all_input_nodes if not _is_random(n)]
    same = len(values) == 1 and tensor(values[0]) is not None and node.args[0] is not node.args[1]
    return values[0] if same and tensor(values[0]).shape == tensor(node).shape else None


def _is_random(node: fx.Node) -> bool:
    """Whether a mask is recomputed from its seed."""
    return node.meta.get("recompute") == CheckpointPolicy.PREFER_RECOMPUTE and _is_bool(node)


def _is_bool(node: fx.Node) -> bool:
    return tensor(node) is not None and tensor(node).dtype == torch.bool


def _readers(value: fx.Node) -> set[fx.Node]:
    """Return what reads a value, or a view of it."""
    found: set[fx.Node] = set()
    for user in value.users:
        found |= _readers(user) if is_view(user) else {user}
    return found
