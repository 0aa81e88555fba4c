"""Of the input of a convolution whose weight is frozen, the backward needs the shape alone.

`aten.convolution_backward` takes the input itself, so the cut would keep it. A tensor of its shape
and strides serves, which lives as long as the call and has no values: none is read.
"""

from __future__ import annotations

import torch
from torch import fx

from fxmem.passes.graph import aten, emit, owner, tensor

WEIGHT = 1  # among the gradients that the mask asks for


def forget_frozen(joint: fx.GraphModule) -> None:
    """Let no convolution's backward read an input of which it computes nothing."""
    target = aten.convolution_backward.default
    for node in joint.graph.find_nodes(op="call_function", target=target):
        grad, given, *_, mask = node.args
        if not mask[WEIGHT] and _is_computed(given) and tensor(given).dtype == tensor(grad).dtype:
            with joint.graph.inserting_before(node):
                node.update_arg(1, _stand_in(joint.graph, grad, given))


def _is_computed(given: fx.Node) -> bool:
    """Whether a value would have to be kept: what the caller holds is there anyway."""
    return owner(given).op != "placeholder"


def _stand_in(graph: fx.Graph, grad: fx.Node, given: fx.Node) -> fx.Node:
    """Return an empty tensor like `given`; made of the gradient, it is the backward's own."""
    value = tensor(given)

    def known(sizes: tuple, symbolic: torch._ops.OpOverload) -> list[int | fx.Node]:
        return [
            size if isinstance(size, int) else emit(graph, symbolic, given, dimension)
            for dimension, size in enumerate(sizes)
        ]

    sizes = known(value.shape, aten.sym_size.int)
    strides = known(value.stride(), aten.sym_stride.int)
    return emit(graph, aten.new_empty_strided.default, grad, sizes, strides, like=given)
