"""Of some inputs the backward needs the shape alone: a pool's, a frozen convolution's.

The operator takes the input itself, so the cut would keep it. A tensor of its shape and strides
serves, which lives as long as the call and has no values: none is read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from fxmem.passes.emit import emit
from fxmem.passes.graph import aten, owner, tensor


def forget_unread(joint: fx.GraphModule) -> None:
    """Let no backward operator take an input of which it reads no element."""
    for target, reads in SHAPES.items():
        for node in joint.graph.find_nodes(op="call_function", target=target):
            grad, given, *_ = node.args
            same = tensor(given).dtype == tensor(grad).dtype
            if same and _is_computed(given) and not reads(node):
                with joint.graph.inserting_before(node):
                    node.update_arg(1, _stand_in(joint.graph, grad, given))


def _second_gradient(node: fx.Node) -> bool:
    """Whether the gradient is asked for of the second input, a weight or a grid."""
    return node.args[-1][1]


def _nothing(node: fx.Node) -> bool:
    return False


POOLS = [
    *(f"{kind}_pool{n}d" for kind in ("avg", "adaptive_max", "fractional_max") for n in (2, 3)),
    *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (2, 3)),
]
PADS = [f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)]
# Whether an operator reads its second argument, which is the input of the forward's.
SHAPES: dict[torch._ops.OpOverload, Callable[[fx.Node], bool]] = {
    **{getattr(aten, f"{op}_backward").default: _nothing for op in [*POOLS, *PADS]},
    aten.grid_sampler_2d_backward.default: _second_gradient,
    aten.grid_sampler_3d_backward.default: _second_gradient,
    aten.convolution_backward.default: _second_gradient,
}


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
