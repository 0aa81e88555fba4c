"""The products that make weight gradients, in a joint graph: whatever layer they came from.

A weight's gradient is a view, a cast or a sum of products dYᵀ X of what the forward computed and
what came back. linear, addmm, mm and einsum all leave an `mm`, or a `bmm` of one batch; a
convolution of single points, of 1 to 3 dimensions, leaves its own backward.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.passes.graph import aten, from_tangents, is_view, owner, tensor
from fxmem.passes.operators import CASTS

COPIES = (*CASTS, aten.clone.default)
MATRIX = (aten.mm.default, aten.bmm.default)
CONVOLUTION = aten.convolution_backward.default


@dataclass(frozen=True)
class Product:
    """`node` is yᵀ x, or xᵀ y if x is on the left; for a convolution its backward, of y and x."""

    node: fx.Node
    x: fx.Node
    y: fx.Node
    left: bool = False

    @property
    def is_convolution(self) -> bool:
        """Whether the factors are images, with rows in all of their dimensions but the second."""
        return self.node.target is operator.getitem

    @property
    def rows(self) -> int | torch.SymInt:
        """What the product sums over."""
        shape = tensor(self.x).shape
        if self.is_convolution:
            return shape[0] * math.prod(shape[2:])
        return shape[-1] if self.left else shape[-2]


@dataclass(frozen=True)
class Unfit:
    """A product that is left alone, and why."""

    node: fx.Node
    why: str


def find_products(
    joint: fx.GraphModule, num_outputs: int, weights: Collection[int]
) -> list[Product | Unfit]:
    """Return what the gradients of weights are made of, in the graph's order.

    Args:
        num_outputs: how many outputs are the forward's; then come the gradients of its inputs.
        weights: the indices of the inputs that are parameters.
    """
    returned = joint.graph.output_node().args[0][num_outputs:]
    inputs = joint.graph.find_nodes(op="placeholder")
    wanted = [
        grad
        for i, (grad, weight) in enumerate(zip(returned, inputs, strict=False))
        if i in weights and grad is not None and tensor(weight).dim() >= 2
    ]
    backward = from_tangents(joint.graph)
    found = {node: _product(node, backward) for grad in wanted for node in _summands(grad)}
    static = {node for i, node in enumerate(inputs) if i in weights}
    return [_of_batch(found[node], static) for node in sorted(found) if found[node] is not None]


def _of_batch(product: Product | Unfit, static: set[fx.Node]) -> Product | Unfit:
    """Leave products that sum over a layer's outputs: of a parameter that it reads as its input."""
    if isinstance(product, Unfit) or _source(product.x) not in static:
        return product
    return Unfit(product.node, "its other factor is a parameter too, of which nothing is kept")


def _source(node: fx.Node) -> fx.Node:
    """Return what a node is a view or a cast of, maybe itself."""
    while (node := owner(node)).target in COPIES:
        node = node.args[0]
    return node


def _summands(grad: fx.Node) -> Iterator[fx.Node]:
    """Yield what a gradient is the sum of, without what only turns or casts it."""
    pending, seen = [grad], set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target is operator.getitem and node.args[0].target is CONVOLUTION:
            yield node
        elif is_view(node) or node.target in COPIES:
            pending.append(node.args[0])
        elif node.target is aten.add.Tensor:
            pending.extend(node.all_input_nodes)
        elif node.op == "call_function":
            yield node


def _product(node: fx.Node, backward: set[fx.Node]) -> Product | Unfit | None:
    made_by = node.args[0] if node.target is operator.getitem else node  # one of several results
    if made_by.target is CONVOLUTION:
        return _convolution(node, backward) if node.args[1] == 1 else None
    if made_by.target not in MATRIX:
        return Unfit(node, f"its gradient comes from {made_by.target}, which is no matrix product")
    left, right = node.args
    if (left in backward) == (right in backward):
        return Unfit(node, "both its factors come back with the gradient")
    if node.target is aten.bmm.default and tensor(node).size(0) != 1:
        return Unfit(node, "it has a batch of weights, each with a product of its own")
    return Product(node, right, left) if left in backward else Product(node, left, right, True)


def _convolution(node: fx.Node, backward: set[fx.Node]) -> Product | Unfit:
    y, x, weight, _, *call, _ = node.args[0].args
    if x in backward:
        return Unfit(node, "both its factors come back with the gradient")
    # Dilation moves nothing where there is but one point.
    stride, padding, _, transposed, output_padding, groups = call
    sizes = (*tensor(weight).shape[2:], *stride, groups)
    if transposed or any((*padding, *output_padding)) or any(size != 1 for size in sizes):
        return Unfit(node, "a convolution of more than single points mixes rows of its input")
    return Product(node, x, y)


def value_of(node: fx.Node) -> Hashable:
    """Return what a node computes, so that two views or casts of one value are one."""
    if not (is_view(node) or node.target in COPIES):
        return node
    return (node.target, value_of(node.args[0]), str((node.args[1:], sorted(node.kwargs.items()))))
