"""Whether the states of a chain may grow from link to link, as far as its operators tell.

An error that a state has when it is large is there when the state before comes back, and that one
is small: states that double in each link lose a digit every three or four. A norm at the beginning
of a branch, or a tanh in it, holds what it adds, whatever the size of its stream.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import aten, owner
from fxmem.passes.joint.reversible.chains import Chain, Link
from fxmem.passes.joint.reversible.recomputable import cone

# By how much states count as growing in a link where nothing is known to hold them: a branch as
# large as its stream makes it 1.6, one three times as large 3.3.
FACTOR = 2.0
# What gives values of one size, whatever it is given.
HOLDING = {
    *(aten.tanh.default, aten.sigmoid.default, aten.sin.default, aten.cos.default),
    *(aten.erf.default, aten.sign.default, aten.atan.default, aten.hardtanh.default),
    *(aten._softmax.default, aten.clamp.default, aten.clamp.Tensor),
    *(aten.native_layer_norm.default, aten.native_group_norm.default),
    *(aten.native_batch_norm.default, aten._native_batch_norm_legit.default),
    *(aten._native_batch_norm_legit_functional.default, aten.cudnn_batch_norm.default),
    *(aten._fused_rms_norm.default, aten._batch_norm_with_update.default),
}
CLAMPS = (aten.clamp_min.default, aten.clamp_max.default)
ROOTS = (aten.sqrt.default, aten.linalg_vector_norm.default)


def growth(chain: Chain) -> dict[fx.Node, float]:
    """Return for what each link makes by how much it may have grown; 1 where something holds it.

    What is held in every other link is so in all: a stream that adds up another one, which is held,
    grows by the same again and again, and not by a factor.
    """
    free = [_is_free(link) for link in chain]
    beside = [False, *free, False]
    loose = [is_free and (beside[i] or beside[i + 2]) for i, is_free in enumerate(free)]
    return {link.out: FACTOR if x else 1.0 for link, x in zip(chain, loose, strict=True)}


def _is_free(link: Link) -> bool:
    """Whether what a link adds may be as large as its stream, or larger. A scale is divided by."""
    added = [side for step in link.steps for side in step.sides if side is not step.scale]
    free = {link.stream}
    for node in cone(link):
        if not free.isdisjoint(node.all_input_nodes) and not _holds(node, free):
            free.add(node)
    return not free.isdisjoint(added)


def _holds(node: fx.Node, free: set[fx.Node]) -> bool:
    if node.target in CLAMPS:
        return {node.target, node.args[0].target} == set(CLAMPS)
    if node.target is aten.mul.Tensor:
        return any(_is_inverse(operand) for operand in node.args if operand in free)
    if node.target is aten.div.Tensor:
        return node.args[1] in free and (_is_root(node.args[1]) or _is_share(*node.args))
    return node.target in HOLDING


def _is_inverse(node: fx.Node) -> bool:
    """Whether a node is one over the size of something, as norms multiply by it."""
    node = owner(node)
    if node.target is aten.reciprocal.default:
        return _is_root(node.args[0])
    return node.target is aten.rsqrt.default or (_exponent(node) or 0) < 0


def _is_root(node: fx.Node) -> bool:
    """Whether a node is the size of something, a small number added or not."""
    node = owner(node)
    while node.target in (aten.add.Tensor, aten.clamp_min.default):
        if not isinstance(node.args[0], fx.Node) or isinstance(node.args[1], fx.Node):
            return False
        node = owner(node.args[0])
    return node.target in ROOTS or (_exponent(node) or 0) > 0


def _is_share(part: fx.Node, whole: fx.Node) -> bool:
    """Whether one is divided by the sum of all, as softmax does it."""
    exponential = part.target is aten.exp.default
    return exponential and whole.target is aten.sum.dim_IntList and whole.args[0] is part


def _exponent(node: fx.Node) -> float | None:
    return node.args[1] if node.target is aten.pow.Tensor_Scalar else None
