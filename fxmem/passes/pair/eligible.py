"""Which kept storages may lose precision at all, and the sentence for those that may not."""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxmem.passes.graph import EXACT, leaves_region, nbytes, numel, op_name, owner, tensor
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.rewrite import is_dense
from fxmem.policy import Policy

LOSSY_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A reduction over fewer elements than this is a combination of streams, not a statistic of one.
STATISTIC_RATIO = 16
# Reductions without torch's own tag for one.
REDUCTIONS = {
    "aten.logsumexp",
    "aten.var_mean",
    "aten.native_layer_norm",
    "prims.prepare_softmax_online",
}


def why_exact(pair: Pair, storage: Storage, policy: Policy) -> str | None:
    """Return why a storage must be kept without loss, None where it may be encoded."""
    node = storage.owner
    return (
        why_shared(pair, storage)
        or node.meta.get(EXACT)
        or _why_by_value(storage, policy)
        or (None if pair.knows_sizes(storage) else "a size of it is not known in the backward")
        or _why_by_origin(pair, node)
        or _why_by_role(node)
    )


def why_shared(pair: Pair, storage: Storage) -> str | None:
    """Return why keeping something else instead would free nothing, or not be safe."""
    if any(isinstance(out, fx.Node) and owner(out) is storage.owner for out in pair.outputs):
        return "the caller holds it too: it is an output of the graph"
    if any(leaves_region(owner(view)) for view in storage.views):
        return "it leaves a nested compiled region, which encodes its own residuals"
    if is_region_output(storage.owner):
        return "a higher-order operator makes it, and its outputs may share memory"
    return None


def why_unpacked(pair: Pair, storage: Storage, policy: Policy) -> str | None:
    """Return why a storage of few-bit integers cannot be kept as a stream of their bits."""
    return (
        why_shared(pair, storage)
        or ("its size is not known when compiling" if numel(storage.owner) is None else None)
        or (None if pair.knows_sizes(storage) else "a size of it is not known in the backward")
        or (
            f"smaller than min_bytes={policy.min_bytes}"
            if storage.nbytes < policy.min_bytes
            else None
        )
        or (None if is_dense(tensor(storage.owner)) else "it has gaps in memory")
    )


def _why_by_origin(pair: Pair, node: fx.Node) -> str | None:
    if node not in pair.activations:
        return "no activation: parameters, constants or random numbers alone make it"
    return None


def _why_by_value(storage: Storage, policy: Policy) -> str | None:
    value = tensor(storage.owner)
    if value.layout is not torch.strided:
        return f"{str(value.layout).removeprefix('torch.')} tensors are kept exactly"
    if value.dtype not in LOSSY_DTYPES:
        return f"{str(value.dtype).removeprefix('torch.')} is kept exactly"
    if numel(storage.owner) is None:
        return "its size is not known when compiling"
    if storage.nbytes < policy.min_bytes:
        return f"smaller than min_bytes={policy.min_bytes}"
    for view in map(tensor, storage.views):
        if view.dtype != value.dtype and not view.is_complex():
            return f"its bits are read as {str(view.dtype).removeprefix('torch.')}"
    return None


def _why_by_role(node: fx.Node) -> str | None:
    if node.target is operator.getitem and node.args[1] != 0:
        return "what an operator returns beside its main output (log-sum-exp, state) stays exact"
    if is_statistic(node):
        return "a statistic: small, and its exactness matters"
    return None


def is_region_output(node: fx.Node) -> bool:
    """Whether a value comes out of a higher-order op; such outputs may alias each other."""
    source = node.args[0] if node.target is operator.getitem else node
    return isinstance(source.target, torch._ops.HigherOrderOperator)


def is_statistic(node: fx.Node) -> bool:
    """Whether a value is a reduction over many elements, or computed from such values alone."""
    # Not recursive: a deep network is longer than Python's stack.
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op != "call_function":
            return False
        if is_reduction(node.args[0] if node.target is operator.getitem else node, node):
            continue
        sources = [owner(n) for n in node.all_input_nodes if tensor(n) is not None]
        if not sources:
            return False
        stack.extend(sources)
    return True


def is_reduction(op: fx.Node, result: fx.Node) -> bool:
    """Whether `op` makes its result from many times more elements, other than by a product."""
    if torch.Tag.reduction in getattr(op.target, "tags", ()) or op_name(op) in REDUCTIONS:
        largest = max((nbytes(n) for n in op.all_input_nodes), default=0)
        return largest >= STATISTIC_RATIO * nbytes(result)
    return False
