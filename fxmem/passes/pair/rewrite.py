"""Keeping a code in place of a tensor: made where it is born, undone where first needed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import fx

from fxmem.ops import layout
from fxmem.passes.emit import Emit, Sizes, emit
from fxmem.passes.graph import aten, tensor, view_chain
from fxmem.passes.pair.graphs import Pair, size_arguments

# (graph, x flattened in memory order) -> the nodes to keep
Encode = Callable[[fx.Graph, fx.Node], Sequence[fx.Node]]
# (graph, what was kept, sizes and strides of x) -> x again
Decode = Callable[[fx.Graph, Sequence[fx.Node], Sizes, Sizes], fx.Node]


def is_dense(value: torch.Tensor) -> bool:
    """Whether a tensor's elements fill its memory, each place once, in some order of dimensions."""
    return layout.memory_order(value.shape, value.stride()) is not None


def dense_strides(value: torch.Tensor) -> list[int | torch.SymInt]:
    """Return the strides of a tensor with its gaps closed: its own where it has none."""
    strides, step = [0] * value.dim(), 1
    for dim in reversed(layout.outermost_first(value.shape, value.stride())):
        strides[dim], step = step, step * value.shape[dim]
    return strides


def laid_out(emitted: Emit, flat: fx.Node, sizes: Sizes, order: list[int]) -> fx.Node:
    """Return flat elements with these sizes, in this order of dimensions in memory."""
    found = emitted(aten.reshape.default, flat, [sizes[d] for d in order])
    return emitted(aten.permute.default, found, [order.index(d) for d in range(len(order))])


def substitute(
    pair: Pair, source: fx.Node, members: Sequence[fx.Node], encode: Encode, decode: Decode
) -> None:
    """Keep the code of `source` in place of `members`, which are `source` or views of it.

    The code is made right after `source` and undone right before the first use in the backward.
    What is encoded is flat, so that the order of its elements is the traced one, whatever layout
    a compiler gives `source` later; what is decoded has the strides that were traced.
    """
    value = tensor(source)
    order = layout.outermost_first(value.shape, value.stride())
    forward = pair.forward.graph
    with forward.inserting_before(_after(source)):
        x = source
        if order != list(range(value.dim())):
            x = emit(forward, aten.permute.default, x, order, like=source)
        if value.dim() != 1:
            x = emit(forward, aten.reshape.default, x, [-1], like=source)
        codes = encode(forward, x)
    kept = pair.swap(members, codes)

    def restored(backward: fx.Graph) -> fx.Node:
        sizes = size_arguments(backward, value.shape)
        strides = size_arguments(backward, dense_strides(value))
        return decode(backward, kept, sizes, strides)

    _put(pair, source, members, restored)


def remake(
    pair: Pair, source: fx.Node, members: Sequence[fx.Node], make: Callable[[fx.Graph], fx.Node]
) -> None:
    """Keep nothing in place of `members`, which are `source` or views of it.

    The backward makes `source` again right before their first use there.
    """
    pair.swap(members, [])
    _put(pair, source, members, make)


def _put(
    pair: Pair, source: fx.Node, members: Sequence[fx.Node], make: Callable[[fx.Graph], fx.Node]
) -> None:
    """Put what is made of other things in place of what the backward took."""
    with pair.backward.graph.inserting_before(first_use(pair, members)):
        made = make(pair.backward.graph)
        for member in members:
            _restore(pair, member, source, made)


def _after(node: fx.Node) -> fx.Node:
    after = node.next
    while node.target is after.target is operator.getitem and after.args[0] is node.args[0]:
        after = after.next
    return after


def first_use(pair: Pair, members: Sequence[fx.Node]) -> fx.Node:
    """Return what reads any of these kept nodes first in the backward."""
    return min(user for member in members for user in pair.taken(member.name).users)


def _restore(pair: Pair, member: fx.Node, source: fx.Node, restored: fx.Node) -> None:
    """Replay in the backward the views that lead from `source` to `member`.

    None do where `member` is the very view that `source` is, by another way from their owner.
    """
    chain = view_chain(member)
    env = {source: restored, member: restored}
    for view in chain[chain.index(source) + 1 :] if source in chain else ():
        env[view] = replay(pair.backward.graph, view, env)
    placeholder = pair.taken(member.name)
    placeholder.replace_all_uses_with(env[member])
    pair.backward.graph.erase_node(placeholder)


def replay(graph: fx.Graph, view: fx.Node, env: dict[fx.Node, fx.Node]) -> fx.Node:
    """Copy a node of the forward to another graph, where `env` has its tensors."""
    sizes = {n for n in view.all_input_nodes if isinstance(n.meta["val"], torch.SymInt)}
    known = {n: size_arguments(graph, [n.meta["val"]])[0] for n in sizes}
    copied = graph.node_copy(view, lambda n: known[n] if n in known else env[n])
    copied.meta.pop("saved_tensor_with_no_vc_check", None)
    return copied
