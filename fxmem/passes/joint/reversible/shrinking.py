"""Integers times a fraction n / d below one, rounded down: undone by what the rounding lost.

floor(v * n / d) has been made of ceil(d / n) integers at most, and which of them it was is kept in
one bit an element for n / d from a half on, two for a quarter. It is how momentum forgets on fixed
point. (Maclaurin, Duvenaud, Adams, Gradient-based Hyperparameter Optimization through Reversible
Learning, 2015, section 2.3, share the bits between elements; here each has its own.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import EXACT, aten, emit, tensor
from fxmem.passes.joint.reversible.steps import Emit, Of, Step

prims = torch.ops.prims
LOST = "fxmem_lost"  # in the meta of a rounded product: the node that has what it lost
FLOOR = {"rounding_mode": "floor"}
MOST_BITS = 8  # that fxmem::pack takes of an element


def shrinking(node: fx.Node) -> Iterator[Step]:
    """Yield the step that a sum is if it is (v // d) * n + (v - v // d * d) * n // d."""
    found = _parts(node)
    if found is None:
        return
    v, n, d = found

    def undo(emitted: Emit, out: fx.Node, of: Of) -> fx.Node:
        return emitted(aten.add.Tensor, _least(emitted, out, n, d), _unpacked(emitted, node, n, d))

    yield Step(node, v, (), undo)


def keep_lost(graph: fx.Graph, made: Iterable[fx.Node]) -> list[fx.Node]:
    """Compute in the forward what the rounded products among the nodes `made` lose, and keep it.

    Returns: the new nodes.
    """
    new: list[fx.Node] = []
    for node in made:
        found = _parts(node)
        if found is None or LOST in node.meta:
            continue

        def emitted(*args: Any, node: fx.Node = node, **kwargs: Any) -> fx.Node:
            new.append(emit(graph, *args, like=node, **kwargs))
            return new[-1]

        with graph.inserting_before(node.next):
            node.meta[LOST] = _packed(emitted, node, *found)
    return new


def _parts(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """Return v, n and d of a rounded product."""
    if not _is(node, aten.add.Tensor) or node.kwargs or not all(_is_node(a) for a in node.args):
        return None
    product, rest = node.args
    if not _is(product, aten.mul.Tensor) or not _is_floor(rest):
        return None
    (whole, n), (scaled, d) = product.args, rest.args
    if not _is_floor(whole) or whole.args[1] != d or not _is(scaled, aten.mul.Tensor):
        return None
    v, left = whole.args[0], scaled.args[0]
    exact = _is(left, aten.sub.Tensor) and left.args[0] is v and not left.kwargs
    if not exact or not _is(left.args[1], aten.mul.Tensor) or left.args[1].args != (whole, d):
        return None
    integers = scaled.args[1] == n and isinstance(n, int) and isinstance(d, int)
    packs = integers and 0 < n < d and _bits(n, d) <= MOST_BITS
    return (v, n, d) if packs and _is_of_integers(v) else None


def _is_of_integers(node: fx.Node) -> bool:
    """Whether a tensor has integers, and a size that does not change."""
    value = tensor(node)
    fixed = all(isinstance(size, int) for size in value.shape)
    return fixed and not (value.is_floating_point() or value.is_complex())


def _least(emitted: Emit, out: fx.Node, n: int, d: int) -> fx.Node:
    """Emit ceil(out * d / n), the least integer that `out` can have been made of."""
    whole = emitted(aten.div.Tensor_mode, out, n, **FLOOR)
    rest = emitted(aten.sub.Tensor, out, emitted(aten.mul.Tensor, whole, n))
    above = emitted(aten.add.Tensor, emitted(aten.mul.Tensor, rest, d), n - 1)
    above = emitted(aten.div.Tensor_mode, above, n, **FLOOR)
    return emitted(aten.add.Tensor, emitted(aten.mul.Tensor, whole, d), above)


def _packed(emitted: Emit, node: fx.Node, v: fx.Node, n: int, d: int) -> fx.Node:
    lost = emitted(aten.sub.Tensor, v, _least(emitted, node, n, d))
    lost = emitted(prims.convert_element_type.default, lost, torch.uint8)
    packed = emitted(torch.ops.fxmem.pack.default, lost, _bits(n, d))
    packed.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    packed.meta[EXACT] = "a reversible chain is recomputed from it"
    return packed


def _unpacked(emitted: Emit, node: fx.Node, n: int, d: int) -> fx.Node:
    packed = node.meta[LOST]
    lost = tensor(packed.args[0])
    unpack, laid_out = torch.ops.fxmem.unpack.default, (list(lost.shape), list(lost.stride()))
    lost = emitted(unpack, packed, *laid_out, _bits(n, d), torch.uint8)
    return emitted(prims.convert_element_type.default, lost, tensor(node).dtype)


def _bits(n: int, d: int) -> int:
    return (math.ceil(d / n) - 1).bit_length()


def _is_floor(node: Any) -> bool:
    return _is(node, aten.div.Tensor_mode) and node.kwargs == FLOOR


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _is(node: Any, target: Any) -> bool:
    return _is_node(node) and node.target is target
