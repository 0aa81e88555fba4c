"""Where a graph takes the cross-entropy of a linear layer, in every spelling that torch has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.loss_path import CASTS, PICKS, SHAPES, SWAPS

LINEAR = {"linear": (0, 1, 2), "addmm": (1, 2, 0), "mm": (0, 1, 3), "matmul": (0, 1, 3)}
LOG_SOFTMAX = {"log_softmax", "_log_softmax"}
OF_LOGITS = {"cross_entropy", "cross_entropy_loss"}
OF_LOGARITHMS = {"nll_loss", "nll_loss_nd", "nll_loss_forward"}
MODULES = {nn.CrossEntropyLoss: "cross_entropy", nn.NLLLoss: "nll_loss"}
REDUCTIONS = ("none", "mean", "sum")
STEPS = 4  # up from what is no such path, to say what stands in its way


@dataclass(frozen=True)
class Loss:
    """A cross-entropy.

    Args:
        call, exit: the node that computes it, and that which is its value: of some, the first.
        options: what it is told, by the names of torch.nn.functional.cross_entropy.
        path: the nodes between the layer and the call, the nearest to the call first.
        linear: what makes the logits: a layer, or an input of the graph.
    """

    call: fx.Node
    exit: fx.Node
    options: Mapping[str, Any]
    path: tuple[fx.Node, ...]
    linear: fx.Node

    @property
    def chain(self) -> list[fx.Node]:
        """From the layer to the loss."""
        return [self.linear, *reversed(self.path), self.call]


def find_losses(graph: fx.Graph) -> Iterator[Loss]:
    """Yield the cross-entropies that a linear layer, or an input alone, is above."""
    for node in graph.nodes:
        name = loss_name(node)
        if name and isinstance(logits := _options(node).get("input"), fx.Node):
            path, found = _up(logits)
            exits = [user for user in readers(node) if user.args[1:] == (0,)]
            exit = next(iter(exits), None) if name == "nll_loss_forward" else node
            if found is not None and exit is not None:
                yield Loss(node, exit, _options(node), tuple(path), found)


def loss_name(node: fx.Node) -> str:
    """Return which loss a node computes, "" for none."""
    if node.op == "call_module":
        module = module_of(node)
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        return "" if hooked or module._backward_pre_hooks else MODULES.get(type(module), "")
    return op(node) if op(node) in OF_LOGITS | OF_LOGARITHMS else ""


def _options(node: fx.Node) -> dict[str, Any]:
    if node.op == "call_module":
        return _of_module(node)
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        arguments = target._schema.arguments
        given = {a.name: a.default_value for a in arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
        given["input"] = given.pop("self")
        return given | {"reduction": REDUCTIONS[given.get("reduction", 1)]}
    try:
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    return dict(bound.arguments)


def _of_module(node: fx.Node) -> dict[str, Any]:
    module = module_of(node)
    names = ("input", "target")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    settings = {"ignore_index": module.ignore_index, "reduction": module.reduction}
    smoothing = {"label_smoothing": getattr(module, "label_smoothing", 0.0)}
    return {**given, **settings, **smoothing, "weight": module.weight}


def _up(logits: fx.Node) -> tuple[list[fx.Node], fx.Node | None]:
    """Return the path up to a linear layer; with what is no path, as far as one is near."""
    path: list[fx.Node] = []
    others, node = 0, logits
    while op(node) not in LINEAR and others < STEPS:
        others += op(node) not in CASTS | SHAPES | SWAPS | PICKS.keys() | LOG_SOFTMAX
        if op(node) in ("getitem", "flatten"):
            others -= 1
        if node.op == "placeholder":
            return path, None if others > 1 else node
        path.append(node)
        if not node.args or not isinstance(node.args[0], fx.Node):
            return path, None
        node = node.args[0]
    return path, node if op(node) in LINEAR else None


def layer(linear: fx.Node) -> tuple[fx.Node, Any, Any]:
    """Return what a linear layer reads: its input, and weight and bias as nodes or tensors."""
    if linear.op == "call_module":
        module = module_of(linear)
        return linear.args[0], module.weight, module.bias
    names = ("input", "weight", "bias")
    args = [*linear.args, *(linear.kwargs.get(name) for name in names[len(linear.args) :]), None]
    hidden, weight, bias = (args[i] if i < len(args) else None for i in LINEAR[op(linear)])
    return hidden, weight, bias
