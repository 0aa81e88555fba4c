"""One vocabulary for every dialect: torch's functions, methods, modules and ATen's operators.

What an operation does is asked of torch itself: ATen's tags and schemas say which operations are
pointwise, which draw random numbers, which return views and which overwrite an argument.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import torch
from torch import fx, nn

from fxmem.activations.table import TABLE

NAMESPACES = (torch, nn.functional, torch._C._nn, torch._C._special, torch.Tensor, operator)
SYNONYMS = {
    "_threshold": "threshold",
    "log_sigmoid": "logsigmoid",
    "special_expit": "sigmoid",
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
}
ACTIVATIONS = {row.torch for row in TABLE.values() if row.torch}
CLASSES = {name.replace("_", ""): name for name in ACTIVATIONS}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MODULES = {
    nn.Linear: "linear",
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), "convolution"),
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.RMSNorm: "rms_norm",
}
# Pointwise, although their operators bear no such tag: they are made of others that do.
POINTWISE = {*ACTIVATIONS, "log_sigmoid_forward", "zeros_like", "ones_like", "full_like"}
CASTS = {"to", "_to_copy", "convert_element_type", "type", "type_as", "clone", "contiguous"}
CASTS |= {"float", "double", "half", "bfloat16"}


def module_of(node: fx.Node) -> nn.Module:
    """Return the module that a call_module node calls."""
    return node.graph.owning_module.get_submodule(node.target)


def op(node: fx.Node) -> str:
    """Return the name of what a node computes, "gelu" in every dialect; "" where it is not torch's.

    A module with hooks does more than its class says, so it has no name.
    """
    if node.op == "call_module":
        return _module_name(module_of(node))
    name = node.target if node.op == "call_method" else ""
    name = _function_name(node.target) if node.op == "call_function" else name
    return SYNONYMS.get(name, name)


def _module_name(module: nn.Module) -> str:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    hooks += (module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or getattr(nn, type(module).__name__, None) is not type(module):
        return ""
    return MODULES.get(type(module)) or CLASSES.get(type(module).__name__.lower(), "")


@functools.cache
def _function_name(target: Callable) -> str:
    name = getattr(target, "__name__", "")
    if isinstance(target, torch._ops.OpOverload):
        ours = target.namespace in ("aten", "prims")
        return target._schema.name.split("::")[1] if ours else ""
    ours = any(getattr(space, name, None) is target for space in NAMESPACES)
    return name if ours else ""


@functools.cache
def _overloads(name: str) -> tuple[torch._ops.OpOverload, ...]:
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return ()
    return tuple(getattr(packet, overload) for overload in packet.overloads())


@functools.cache
def _tagged(name: str, tag: torch.Tag) -> bool:
    return any(tag in overload.tags for overload in _overloads(name))


def is_pointwise(node: fx.Node) -> bool:
    """Whether each element of a node's value depends on the same element of its inputs alone."""
    name = op(node)
    if not name.endswith("__"):  # in place it is the same, but on torch 2.11 not tagged
        name = name.removesuffix("_")
    if name in ("max", "min"):  # of two tensors; of one they are reductions
        return len(node.args) == 2 and isinstance(node.args[1], fx.Node)
    if name == "getitem":
        return isinstance(node.args[0], fx.Node) and op(node.args[0]) == "log_sigmoid_forward"
    if _tagged(name, torch.Tag.nondeterministic_seeded):
        return False
    return name in POINTWISE or is_cast(node) or _tagged(name, torch.Tag.pointwise)


def is_cast(node: fx.Node) -> bool:
    """Whether a node hands on the values of its first argument, in another dtype or place.

    Whole numbers and floats of 8 bits are codes of them: what makes those quantizes, and is none.
    """
    given = (a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.dtype))
    codes = any(not dtype.is_floating_point or dtype.itemsize < 2 for dtype in given)
    return op(node) in CASTS and not codes


def lays_out(node: fx.Node) -> bool:
    """Whether a node gives its value strides of its own, whatever its argument's are."""
    formats = {a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.memory_format)}
    return op(node) == "contiguous" or bool(formats - {torch.preserve_format})


def is_view(node: fx.Node) -> bool:
    """Whether a node's value may share the storage of its first argument."""
    infos = [r.alias_info for overload in _overloads(op(node)) for r in overload._schema.returns]
    return any(info is not None and not info.is_write for info in infos)
