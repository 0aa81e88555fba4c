"""The norms of a graph: torch's own in every dialect, and those that are written by hand."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxmem.ops.norms.modules import of_module
from fxmem.ops.norms.operators import FUNCTIONS
from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.dialect import MODULES, module_of, op
from fxmem.passes.forward.eager import kept
from fxmem.passes.forward.norms.idioms import Idiom
from fxmem.passes.forward.traced import dtype_of

# Operators that return statistics beside the output, and what torch calls the norm.
WITH_STATISTICS = {
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_fused_rms_norm": "rms_norm",
}
KINDS = {*FUNCTIONS, *WITH_STATISTICS}
# torch.layer_norm takes what ATen's operator does, torch.nn.functional.layer_norm less.
C_FUNCTIONS: set[Callable] = {getattr(torch, name) for name in KINDS if hasattr(torch, name)}
RENAMED = {"group": "num_groups"}
# Of a source of this shape, statistics and weights are less than a bit an element.
ROWS = 64


@dataclass(frozen=True)
class Norm:
    """A norm as a graph has it.

    Args:
        kind: the name of torch's function.
        nodes: what computes it, in order; of torch's own operators, their results too.
        exit: what the rest of the graph reads; of an activation that is kept with it, its exit.
        source: what is normalised.
        kept: bits an element that eager keeps for its backward: of the source, and of all between.
        dtype: of the source, float32 where no tracer has said.
    """

    kind: str
    nodes: tuple[fx.Node, ...]
    source: fx.Node
    exit: fx.Node
    kept: tuple[int, int]
    dtype: torch.dtype
    idiom: Idiom | None = None
    activation: Activation | None = None

    @property
    def node(self) -> fx.Node:
        """The node that says what it is: the operator, or the last of what is written by hand."""
        return self.exit if self.idiom else self.nodes[0]

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """The output of an operator that returns its statistics too, and those."""
        return () if self.idiom else self.nodes[1:]


def is_one_result(user: fx.Node) -> bool:
    """Whether a node picks one of several results."""
    return user.target is operator.getitem and user.args[1] in range(3)


def of_node(node: fx.Node) -> Norm:
    """Return the norm that a node of torch's is."""
    name = op(node)
    found = filter(is_one_result, node.users if name in WITH_STATISTICS else [])
    results = sorted(found, key=lambda result: result.args[1])
    source = node.args[0] if node.args else node.kwargs["input"]
    dtype = dtype_of(source) or torch.float32
    exit = results[0] if results else node
    kind = WITH_STATISTICS.get(name, name) or _kind_of(module_of(node))
    return Norm(kind, (node, *results), source, exit, (8 * dtype.itemsize, 0), dtype)


def of_idiom(idiom: Idiom, wanted: Container[fx.Node]) -> Norm:
    """Return the norm that is written by hand."""
    cone = idiom.cone
    dtype = dtype_of(cone.source) or next(
        (leaf.dtype for leaf in idiom.leaves.values()), torch.float32
    )
    found = kept(idiom.with_ones(wanted=wanted), dtype, (ROWS, idiom.width or ROWS))
    bits = found.source, found.between
    return Norm(idiom.kind, cone.nodes, cone.source, cone.exit, bits, dtype, idiom)


def call_of(graph: fx.Graph, norm: Norm) -> tuple[Callable, tuple, dict[str, Any]]:
    """Return what computes a norm and keeps its output, and with which arguments."""
    node = norm.nodes[0]
    if norm.idiom:
        return FUNCTIONS[norm.kind], (norm.source, (norm.idiom.width,)), _settings(norm.idiom)
    if node.op == "call_module":
        # The module itself, for its mode and its weights are those of each call.
        return of_module, (norm.source, graph.get_attr(node.target)), {}
    return FUNCTIONS[norm.kind], *_arguments(node, norm.kind)


def _settings(idiom: Idiom) -> dict[str, Any]:
    given = {"weight": idiom.weight, "bias": idiom.bias}
    return {"eps": idiom.eps, **{name: node for name, node in given.items() if node is not None}}


def _arguments(node: fx.Node, kind: str) -> tuple[tuple, dict[str, Any]]:
    """Return a norm's arguments as torch.nn.functional names and orders them."""
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    if not is_operator and node.target not in C_FUNCTIONS:
        return node.args, node.kwargs
    target = node.target if is_operator else getattr(torch.ops.aten, op(node)).default
    names = [RENAMED.get(a.name, a.name) for a in target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    wanted = inspect.signature(FUNCTIONS[kind]).parameters
    required = dict.fromkeys(n for n, p in wanted.items() if p.default is p.empty)
    return (), {**required, **{n: value for n, value in given.items() if n in wanted}}


def is_changed(node: fx.Node) -> bool:
    """Whether a node calls a norm of torch that does more than its class says."""
    return node.op == "call_module" and not op(node) and bool(_kind_of(module_of(node)))


def _kind_of(module: torch.nn.Module) -> str:
    """Return the norm that a module is, whatever has been put on it; "" for no norm."""
    found = (name for kind, name in MODULES.items() if isinstance(module, kind))
    return next((name for name in found if name in FUNCTIONS), "")
