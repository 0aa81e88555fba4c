"""The last pass of all: a codec becomes plain ATen where Inductor fuses it to something faster.

Which codecs on which devices these are is measured, and stands in `fxmem.ops.choice`.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from fxmem.ops.choice import prefers_native
from fxmem.ops.decomposition import DECOMPOSITIONS
from fxmem.passes.emit import origin
from fxmem.passes.graph import tensor
from fxmem.passes.pair.graphs import Pair


def expand(pair: Pair) -> None:
    """Replace fxmem ops by their decompositions where those were measured to be faster."""
    for module in (pair.forward, pair.backward):
        for node in list(module.graph.nodes):
            if node.target in DECOMPOSITIONS and not prefers_native(*_key(node)):
                _inline(module.graph, node)


def _key(node: fx.Node) -> tuple[str, int, str]:
    schema = node.target._schema
    bits = node.args[[argument.name for argument in schema.arguments].index("bits")]
    return schema.name.removeprefix("fxmem::"), bits, tensor(node.args[0]).device.type


def _inline(graph: fx.Graph, node: fx.Node) -> None:
    """Put the traced decomposition in place of a node; one that declines leaves it as it is."""
    leaves, structure = tree_flatten(node.args)
    inputs = [leaf for leaf in leaves if isinstance(leaf, fx.Node)]

    def call(*values: object) -> object:
        given = iter(values)
        filled = [next(given) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        return DECOMPOSITIONS[node.target](*tree_unflatten(filled, structure))

    values = [leaf.meta["val"] for leaf in inputs]
    with detect_fake_mode(values):
        # Asked first, because a traced function has to return tensors.
        if call(*values) is NotImplemented:
            return
        traced = make_fx(call, decomposition_table=select_decomp_table())(*values)
    placeholders = traced.graph.find_nodes(op="placeholder")
    env = dict(zip(placeholders, inputs, strict=True))
    with graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "call_function":
                env[inner] = graph.node_copy(inner, env.__getitem__)
                env[inner].meta.update(origin(node))
    results = [env[result] for result in tree_leaves(traced.graph.output_node().args)]
    _replace(graph, node, results)


def _replace(graph: fx.Graph, node: fx.Node, results: list[fx.Node]) -> None:
    if isinstance(node.meta["val"], torch.Tensor):
        node.replace_all_uses_with(results[0])
    else:
        for item in list(node.users):
            assert item.target is operator.getitem
            name, result = item.name, results[item.args[1]]
            item.replace_all_uses_with(result)
            graph.erase_node(item)
            # Kept values are found by the name of the node that makes them.
            result._rename(name)
    graph.erase_node(node)
