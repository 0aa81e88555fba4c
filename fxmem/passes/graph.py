"""Tools on FX graphs: views and their storage, bytes, where a value comes from.

A view is not a tensor: q, k and v may be three views of one storage. What is kept is storages.
"""

from __future__ import annotations

import copy
import operator
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.invoke_subgraph import invoke_subgraph
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.compat import hint
from fxmem.plan import Residual

aten = torch.ops.aten
# Views that their schema does not declare, because they promise nothing about aliasing.
UNDECLARED_VIEWS = (aten._unsafe_view.default, aten.reshape.default)
EXACT = "fxmem_exact"  # in a node's meta: why it must be kept without loss, in a sentence
NUMBERS = "fxmem_numbers"  # in a node's meta: integers that stand for floats, one an element
SKETCH_OF = "fxmem_sketch_of"  # the Residual that a sketch is kept in place of, and what it is


def tensor(node: Any) -> torch.Tensor | None:
    """Return the fake tensor that a node computes, None for anything else."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def is_view(node: fx.Node) -> bool:
    """Whether the node's output shares the storage of its first argument."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source.target, torch._ops.OpOverload) and _aliases(source.target)
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target in UNDECLARED_VIEWS or _aliases(node.target)


def _aliases(target: torch._ops.OpOverload) -> bool:
    infos = [returned.alias_info for returned in target._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def view_chain(node: fx.Node) -> list[fx.Node]:
    """Return the nodes from the owner of the storage to `node`: [owner, view, ..., node]."""
    chain = [node]
    while is_view(chain[-1]):
        chain.append(chain[-1].args[0])
        if chain[-1].target is not operator.getitem and tensor(chain[-1]) is None:
            # A split: one more step leads from the list of views to what was split.
            chain.append(chain[-1].args[0])
    return chain[::-1]


def owner(node: fx.Node) -> fx.Node:
    """Return the node whose output is the storage that `node` is a view of (maybe itself)."""
    return view_chain(node)[0]


def numel(node: fx.Node) -> int | None:
    """Return the number of elements of a node's tensor; None where no hint is known."""
    total = 1
    for size in tensor(node).shape:
        known = hint(size)
        if known is None:
            return None
        total *= known
    return total


def nbytes(node: fx.Node) -> int:
    """Return the bytes of a node's tensor, 0 for what is no tensor or has no known size."""
    value = tensor(node)
    return (numel(node) or 0) * value.itemsize if value is not None else 0


def ancestors(nodes: Iterable[fx.Node], stop: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Return all that `nodes` are computed from, themselves included, not looking past `stop`."""
    seen: dict[fx.Node, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            if not stop(node):
                stack.extend(node.all_input_nodes)
    return list(seen)


def from_tangents(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes of a backward (or joint) graph that depend on an incoming gradient."""
    tainted: set[fx.Node] = set()
    for node in graph.nodes:
        is_tangent = node.op == "placeholder" and node.target.startswith("tangents_")
        if is_tangent or tainted.intersection(node.all_input_nodes):
            tainted.add(node)
    return tainted


def prefer_recompute(node: fx.Node) -> None:
    """Let the cut recompute a value in the backward, unless the user asked for something else."""
    # What torch.utils.checkpoint asks for comes first.
    node.meta.setdefault("recompute", CheckpointPolicy.PREFER_RECOMPUTE)


def regions(module: fx.GraphModule, kept: Iterable[fx.Node]) -> list[fx.GraphModule]:
    """Return the nested compiled regions that return what is `kept`, one entry a call."""
    calls = dict.fromkeys(n.args[0] for n in kept if leaves_region(n))
    return [getattr(module, call.args[0].target) for call in calls]


def leaves_region(node: fx.Node) -> bool:
    """Whether a node is an output of a nested compiled region."""
    return node.target is operator.getitem and node.args[0].target is invoke_subgraph


def memory(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, ...]:
    """Return what stands for the storage of a node's tensor: two nodes share it if it is equal.

    That is its owner; beyond a nested region's output, the call and the owner inside the region.
    """
    node = owner(node)
    while leaves_region(node):
        call, index = node.args
        region = getattr(module, call.args[0].target)
        inner = owner(region.graph.output_node().args[0][index])
        if inner.op != "placeholder":
            return (call, inner)
        node = owner(call.args[2 + region.graph.find_nodes(op="placeholder").index(inner)])
    return (node,)


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the nn.Module that a node was traced in, "" at the top."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    return plain_path(next(reversed(stack.values()))[0] if stack else "")


def plain_path(path: str) -> str:
    """Return the path of an nn.Module without what tracers and torch.compile put into it."""
    path = re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", path)
    parts = [
        part
        for part in path.split(".")
        if part not in ("L", "self", "__self__", "fn", "_orig_mod", "_modules", "__dict__", "")
    ]
    return ".".join(parts)


def op_name(node: fx.Node) -> str:
    """Return the short name of what a node computes: `aten.addmm`, `placeholder`."""
    if node.target is operator.getitem:
        return f"{op_name(node.args[0])}[{node.args[1]}]"
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket)
    return node.op if node.op != "call_function" else getattr(node.target, "__name__", "call")


def describe(node: fx.Node, name: str, size: int) -> Residual:
    """Return the plain record of a kept value of `size` bytes, for plans and reports."""
    value = tensor(node)
    shape = tuple(s if isinstance(s, int) else str(s) for s in value.shape)
    dtype = str(value.dtype).removeprefix("torch.")
    return Residual(name, module_path(node), op_name(node), shape, dtype, size)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a graph, for a partitioner uses its argument up; constants are shared.

    A deep copy of the module would copy its constants, which fails where fake tensors are made.
    """
    with warnings.catch_warnings():
        # torch's own copy of its output's structure warns about itself.
        warnings.simplefilter("ignore", FutureWarning)
        return fx.GraphModule(module, copy.deepcopy(module.graph))


def stable_text(graph: fx.Graph) -> str:
    """Return a graph as text that is the same on every torch: for tests that compare graphs.

    One line a node: `name: float32[2, 4] = aten.silu.default(linear)`.
    """
    return "\n".join(_line(node) for node in graph.nodes)


def _line(node: fx.Node) -> str:
    if node.op == "output":
        return f"return {_text(node.args[0])}"
    value = tensor(node)
    kind = (
        f": {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if value is not None
        else ""
    )
    if node.op == "placeholder":
        return f"{node.name}{kind}"
    kwargs = [f"{key}={_text(arg)}" for key, arg in node.kwargs.items()]
    target = node.target if isinstance(node.target, str) else str(node.target)
    if callable(node.target) and not isinstance(node.target, torch._ops.OperatorBase):
        target = node.target.__name__
    return f"{node.name}{kind} = {target}({', '.join([*map(_text, node.args), *kwargs])})"


def _text(arg: Any) -> str:
    if isinstance(arg, (list, tuple)):
        return f"[{', '.join(map(_text, arg))}]"
    return str(arg)
