"""Numbers that a graph spells out, as Python numbers or as tensors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses import FakeTensor

from fxmem.passes.forward.dialect import is_pointwise, module_of, op

# What an operation raises that cannot be computed for these arguments, here and now: of integers,
# of bits, in half precision on a CPU, of sizes that only the program knows.
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)
LITERALS = {"tensor", "scalar_tensor", "full", "lift_fresh_copy", "detach_"}


def constants(graph: fx.Graph) -> dict[fx.Node, torch.Tensor]:
    """Return the 0-dim tensors that nodes always are.

    A parameter or a buffer is no constant: it may change. Nor is what wants a gradient.
    """
    found: dict[fx.Node, torch.Tensor] = {}
    for node in graph.nodes:
        value = _literal(node) if node.op == "get_attr" else _computed(node, found)
        if isinstance(value, torch.Tensor) and value.dim() == 0:
            found[node] = value
    return found


def _computed(node: fx.Node, found: dict[fx.Node, torch.Tensor]) -> Any:
    inputs: list[fx.Node] = []
    fx.map_arg(node.args, inputs.append)  # of keywords, device and dtype may be nodes
    spelled = op(node) in LITERALS or (inputs and is_pointwise(node))
    if not spelled or not found.keys() >= set(inputs) or node.kwargs.get("requires_grad"):
        return None
    if op(node) == "full" and node.args[0]:
        return None
    dtypes = {k: v for k, v in node.kwargs.items() if isinstance(v, torch.dtype)}
    return call(node, fx.map_arg(node.args, found.__getitem__), dtypes)


def attribute(node: fx.Node) -> Any:
    """Return what a get_attr node reads."""
    return functools.reduce(getattr, node.target.split("."), node.graph.owning_module)


def _literal(node: fx.Node) -> torch.Tensor | None:
    """Return a tensor that the program spelled out: torch.tensor(0.5), as tracers keep it."""
    value = attribute(node)
    if not isinstance(value, torch.Tensor) or value.dim() or isinstance(value, nn.Parameter):
        return None
    if value.requires_grad:
        return None
    lifted = all(op(user) == "lift_fresh_copy" for user in node.users)
    aten = any(isinstance(user.target, torch._ops.OpOverload) for user in node.users)
    spelled = re.fullmatch(r"_tensor_constant\d+", node.target) and not aten
    known = not isinstance(value, FakeTensor) and not value.is_meta
    return value.detach().cpu() if (lifted or spelled) and known else None


def call(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute a node from the values of its arguments, None where it does not go."""
    try:
        if node.op == "call_module":
            return module_of(node)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)
    except FAILURES:
        return None
