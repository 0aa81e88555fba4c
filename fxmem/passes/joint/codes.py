"""The codes of an integer layer's input may be recomputed, from what they are made of.

A layer returns them beside its outputs, and no layer is computed twice. So the backward is given an
operator that computes codes alone. Where the cut keeps them all the same, or where the layer is
computed as well, the layer's own serve.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import fx

from fxmem.passes.emit import origin
from fxmem.passes.graph import NUMBERS, nbytes, numel

LAYERS = [f"fxmem::{kind}_{of}" for kind in ("integer", "binary") for of in ("linear", "conv2d")]
CODES = [f"{layer}_codes" for layer in LAYERS]
ASKED = ("recompute", "ac_graph_id")  # of torch.utils.checkpoint


def split_codes(joint: fx.GraphModule) -> None:
    """Let what reads a layer's codes read those of an operator of their own."""
    for layer in list(_calls(joint.graph, LAYERS)):
        codes = [item for item in layer.users if item.args[1] > 0]
        if codes:
            _split(joint.graph, layer, codes)


def recomputable(joint: fx.GraphModule) -> set[torch._ops.OpOverloadPacket]:
    """Return the operators of codes alone that a graph has."""
    return {node.target.overloadpacket for node in _calls(joint.graph, CODES)}


def join_codes(half: fx.GraphModule) -> None:
    """Let the layer's own codes serve in a graph that computes both."""
    layers = list(_calls(half.graph, LAYERS))
    for codes in list(_calls(half.graph, CODES)):
        for layer in layers:
            readers = [user for item in codes.users for user in item.users]
            if _call(layer) == (codes.target, codes.args) and all(layer < n for n in readers):
                _replace(list(codes.users), layer, 1)
                half.graph.erase_node(codes)
                break


def _calls(graph: fx.Graph, names: Collection[str]) -> Iterator[fx.Node]:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.name() in names:
            yield node


def _call(layer: fx.Node) -> tuple[torch._ops.OpOverload, tuple]:
    """Return the operator of a layer's codes alone, and its arguments."""
    name = layer.target.name().removeprefix("fxmem::")
    x, weight, _, *rest = layer.args
    given = (x, *rest) if name.endswith("linear") else (x, weight, *rest)
    return getattr(torch.ops.fxmem, f"{name}_codes").default, given


def _split(graph: fx.Graph, layer: fx.Node, items: list[fx.Node]) -> None:
    for item in items:
        # As good as what they are made of, where comparisons and signs are not.
        item.meta[NUMBERS] = item.args[1] == 1 and nbytes(item) == numel(layer.args[0])
    with graph.inserting_after(layer):
        codes = graph.call_function(*_call(layer))
    asked = {key: layer.meta[key] for key in ASKED if key in layer.meta}
    codes.meta = origin(layer) | asked
    codes.meta["val"] = tuple(layer.meta["val"][1:])
    _replace(items, codes, -1)


def _replace(items: list[fx.Node], source: fx.Node, offset: int) -> None:
    """Let the outputs of one operator be those of another, under the names that they have."""
    for item in items:
        item.args = (source, item.args[1] + offset)
        source.append(item)
