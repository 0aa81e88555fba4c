"""Integers times a fraction below one, as momentum forgets on fixed point: fxmem::shrink.

What a product loses goes into numbers that elements share, and these go on from one product to the
next. Those after the last product are kept, in the bits of their bound, and what spilled of them on
the way; the others come back with the states.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.ops import shrunk
from fxmem.passes.bits import pack, unpack
from fxmem.passes.emit import Emit, emit
from fxmem.passes.graph import EXACT, tensor
from fxmem.passes.joint.reversible.steps import Of, Step

SHRINK, UNSHRINK = torch.ops.fxmem.shrink.default, torch.ops.fxmem.unshrink.default
LOST = "fxmem_lost"  # in the meta of numbers: what they come back as, or their packed bytes


def shrinking(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a product is. Where its size may change it is none."""
    call, index = node.args
    if not _is_product(call) or index != 0:
        return
    v, before, *fraction = call.args

    def undo(emitted: Emit, out: fx.Node, of: Of) -> fx.Node:
        spilled = _item(call, 2) if _spills(call) else None
        undone = emitted(UNSHRINK, out, _after(emitted, call), spilled, *fraction)
        before.meta[LOST] = emitted(operator.getitem, undone, 1)
        return emitted(operator.getitem, undone, 0)

    yield Step(node, v, (), undo)


def keep_lost(made: Iterable[fx.Node]) -> list[fx.Node]:
    """Keep what the products among the nodes `made` lose.

    Returns: the new nodes of the forward.
    """
    calls = [n.args[0] for n in made if n.target is operator.getitem and _is_product(n.args[0])]
    passed_on = {call.args[1] for call in calls}
    new: list[fx.Node] = []
    for call in calls:
        if _spills(call):
            new.append(_kept(_item(call, 2)))
        numbers = _item(call, 1)
        if numbers not in passed_on:
            new += _packed(numbers, _bits(call))
    return new


def _is_product(node: Any) -> bool:
    return node.target is SHRINK and all(isinstance(s, int) for s in tensor(node.args[0]).shape)


def _spills(call: fx.Node) -> bool:
    return call.meta["val"][2].shape[0] > 0


def _item(call: fx.Node, index: int) -> fx.Node:
    """Return what a product gives beside itself, which may be read by nobody yet."""
    for user in call.users:
        if user.target is operator.getitem and user.args[1] == index:
            return user
    with call.graph.inserting_before(call.next):
        return emit(call.graph, operator.getitem, call, index, like=call)


def _bits(call: fx.Node) -> int:
    """Return how many bits the numbers after a product take."""
    v, _, n, d, bound = call.args
    rounds, width, _ = tensor(v).shape
    return (shrunk(n, d, width, rounds, bound)[1] - 1).bit_length()


def _packed(numbers: fx.Node, bits: int) -> list[fx.Node]:
    """Pack numbers, and keep that."""
    new: list[fx.Node] = []

    def emitted(*args: Any) -> fx.Node:
        new.append(emit(numbers.graph, *args, like=numbers))
        return new[-1]

    with numbers.graph.inserting_before(numbers.next):
        numbers.meta[LOST] = [_kept(stream) for stream in pack(emitted, numbers, bits)]
    return new


def _after(emitted: Emit, call: fx.Node) -> fx.Node:
    """Return the numbers after a product: the forward's own if nothing else stands for them."""
    numbers = _item(call, 1)
    lost = numbers.meta.get(LOST, numbers)
    if isinstance(lost, fx.Node):
        return lost
    return unpack(emitted, lost, _bits(call), list(tensor(numbers).shape), [1], torch.int64)


def _kept(node: fx.Node) -> fx.Node:
    node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    node.meta[EXACT] = "a reversible chain is recomputed from it"
    return node
