"""What a few pointwise functions make of other kept values is made again, not kept beside them.

The cut keeps the end of a long chain of pointwise functions, and what is read long after it was
made, whatever else is kept: of `y * silu(z)` all three, though from two the third follows. Without
those bans each state of a recurrence would be made of all before it. So what something is made of
stays here, and is a few operators away.

What no code may stand for is not made of codes; and of them nothing is made whose error would be
another in kind: no sums, whose parts may cancel, no exponentials, no quotients of small numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.emit import emit
from fxmem.passes.graph import EXACT, aten, is_view, memory, numel, op_name, tensor
from fxmem.passes.operators import LITERALS, is_cast, is_pointwise
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.eligible import is_statistic, why_shared
from fxmem.passes.pair.graphs import Pair, Storage, size_arguments
from fxmem.passes.pair.rewrite import first_use, remake, replay
from fxmem.policy import Policy

MOST = 8  # operators, views not counted
SAVED = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)
SMOOTH = {f"aten.{op}" for op in ("mul", "neg", "sigmoid", "tanh", "erf", "relu", "clone", "full")}
Memory = tuple[fx.Node, ...]


def recompute_made(pair: Pair, policy: Policy) -> None:
    """Keep nothing that the backward can make, in a few operators, of what else is kept.

    From the last to the first: what another is made of then stays.
    """
    views = pair.memories()
    serves = _serves(pair, policy)
    needed: set[Memory] = set()
    for storage in sorted(pair.storages(), key=lambda s: s.owner, reverse=True):
        own = memory(pair.forward, storage.owner)
        if own in needed or storage.nbytes < policy.min_bytes or not _may_go(pair, storage):
            continue
        made_of = _made_of(pair, storage, views)
        if made_of is not None and serves(storage, *made_of):
            _make_again(pair, storage, *made_of)
            needed |= {memory(pair.forward, source) for source in made_of[1].values()}
            del views[own]
    if needed:
        pair.prune()


def _serves(pair: Pair, policy: Policy) -> Callable[..., bool]:
    """Return what says whether a storage may be made of values that may be encoded."""
    if not policy.lossy:
        return lambda *_: True
    storages = {view: storage for storage in pair.storages() for view in storage.views}
    refusal = functools.cache(lambda: refusals(pair, policy))  # asked of few graphs

    def serves(storage: Storage, steps: list[fx.Node], sources: dict[fx.Node, fx.Node]) -> bool:
        made_of = [storages[view] for view in sources.values() if view in storages]
        if all(refusal()(source) is not None for source in made_of):
            return True
        smooth = all(map(_is_smooth, steps)) and not is_statistic(storage.owner)
        return smooth and refusal()(storage) is None

    return serves


def _is_smooth(step: fx.Node) -> bool:
    """Whether an error of what a step reads is not much more of what it makes."""
    name, many = op_name(step), sum(tensor(n) is not None for n in step.all_input_nodes) > 1
    if name == "aten.exp":
        return all(op_name(user) == "aten.add" and not many for user in step.users)
    if name == "aten.div":
        whole = step.args[1]
        return not isinstance(whole, fx.Node) or op_name(whole) == "aten.add"
    return is_view(step) or is_cast(step) or name in SMOOTH or (name == "aten.add" and not many)


def _may_go(pair: Pair, storage: Storage) -> bool:
    node = storage.owner
    asked = any(n.meta.get("recompute") in SAVED for n in (node, *storage.views))
    if asked or EXACT in node.meta or not tensor(node).dtype.is_floating_point:
        return False
    return why_shared(pair, storage) is None


def _made_of(
    pair: Pair, storage: Storage, views: dict[Memory, list[fx.Node]]
) -> tuple[list[fx.Node], dict[fx.Node, fx.Node]] | None:
    """Return the operators that make a storage, and the kept value for each that they read.

    None where those are more than a few, or something else is read.
    """
    steps: dict[fx.Node, None] = {}
    sources: dict[fx.Node, fx.Node] = {}
    pending = [storage.owner]
    for node in pending:
        kept = (
            views.get(memory(pair.forward, node), ()) if steps and tensor(node) is not None else ()
        )
        source = next((view for view in kept if _is_same(view, node)), None)
        if source is not None:
            sources[node] = source
        elif not _is_step(node):
            return None
        else:
            steps[node] = None
            pending += [n for n in node.all_input_nodes if n not in pending and _is_value(n)]
        if sum(not is_view(n) for n in steps) > MOST:
            return None
    made = tuple(n for n in steps if tensor(n) is not None)
    return (sorted(steps), sources) if pair.knows_sizes(replace(storage, views=made)) else None


def _is_step(node: fx.Node) -> bool:
    """Whether a node is a view, or a pointwise function of tensors and numbers alone."""
    if node.op != "call_function" or node.meta.get("recompute") in SAVED:
        return False
    made = (is_pointwise(node) and not node.target._schema.is_mutable) or node.target in LITERALS
    return is_view(node) or (made and all(map(_is_value, node.all_input_nodes)))


def _is_value(node: fx.Node) -> bool:
    """Whether a node is a tensor, or the list of them that a split returns."""
    return tensor(node) is not None or isinstance(node.meta.get("val"), (list, tuple))


def _is_same(view: fx.Node, node: fx.Node) -> bool:
    """Whether two views of one memory have the same elements, in the same order."""
    if view is node:
        return True
    a, b = tensor(view), tensor(node)
    at = a.storage_offset() == b.storage_offset() and a.dtype == b.dtype
    return at and numel(view) == numel(node) and a.is_contiguous() and b.is_contiguous()


def _make_again(
    pair: Pair, storage: Storage, steps: list[fx.Node], sources: dict[fx.Node, fx.Node]
) -> None:
    """Make a storage in the backward, right before it is first read there."""
    found = {node.name: node for node in pair.backward.graph.nodes if node.op == "call_function"}
    first = first_use(pair, storage.views)

    def make(graph: fx.Graph) -> fx.Node:
        made = {node: _taken(pair, graph, node, view) for node, view in sources.items()}
        for step in steps:
            made[step] = _brought(found.get(step.name), first) or replay(graph, step, made)
            if made[step] is not found.get(step.name):
                # No other value of the forward may have its name.
                made[step]._rename(f"{step.name}_again")
        return made[storage.owner]

    remake(pair, storage.owner, storage.views, make)


def _brought(node: fx.Node | None, first: fx.Node) -> fx.Node | None:
    """Return what the backward makes anyway, there or before; None where that cannot be."""
    if node is None or any(not n < first for n in node.all_input_nodes):
        return None
    if not node < first:
        first.prepend(node)
    return node


def _taken(pair: Pair, graph: fx.Graph, node: fx.Node, view: fx.Node) -> fx.Node:
    taken, shape = pair.taken(view.name), tensor(node).shape
    if tensor(view).shape == shape:
        return taken
    return emit(graph, aten.reshape.default, taken, size_arguments(graph, shape), like=node)
