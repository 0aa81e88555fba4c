"""Norms whose output a neighbour keeps: they keep it too, and not their input.

fxmem.ops.norms computes them, and says which channels' normalised input is kept beside it. It pays
only where a graph is run as it is: a compiler's own cut recomputes a norm's output, and keeps one
tensor a norm as it is.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxmem.compat import hint
from fxmem.ops.norms.operators import FUNCTIONS
from fxmem.passes.forward.activations import Activation, find
from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.eager import plainly
from fxmem.passes.forward.effects import overwrites, readers, spans
from fxmem.passes.forward.emit import erase, replace
from fxmem.passes.forward.nested import called
from fxmem.passes.forward.traced import dtype_of, shape_of
from fxmem.passes.forward.uses import differentiable, keeper
from fxmem.passes.graph import module_path
from fxmem.plan import Plan, Refusal, Residual, Site

NAME = "norm_from_output"
ACTION = "kept as its output"
INVERTIBLE = ("leaky_relu", "elu")
ATEN = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "native_group_norm": ("input", "weight", "bias", "N", "C", "HxW", "num_groups", "eps"),
    "batch_norm": (
        *("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    ),
}
ATEN["native_layer_norm"] = ATEN["layer_norm"]
# What a module is asked for, beside weight and bias.
SETTINGS = {"layer_norm": "normalized_shape", "rms_norm": "normalized_shape"}
SETTINGS["group_norm"] = "num_groups"
KINDS = {*FUNCTIONS, "native_layer_norm", "native_group_norm"}
# torch.layer_norm takes what ATen's operator does, torch.nn.functional.layer_norm less.
C_FUNCTIONS: set[Callable] = {getattr(torch, name) for name in KINDS}


@dataclass(frozen=True)
class Uses:
    """Of all nodes: which may want a gradient, and in which stretch nothing is overwritten."""

    wanted: set[fx.Node]
    stretch: dict[fx.Node, int]


@dataclass(frozen=True)
class Norm:
    """A norm, and the activation that is kept with it as one output."""

    node: fx.Node
    activation: Activation | None = None

    @property
    def kind(self) -> str:
        """The name of torch's function."""
        return op(self.node).removeprefix("native_")

    @property
    def results(self) -> list[fx.Node]:
        """The output of an operator that returns its statistics too, and those."""
        found = filter(_is_one_result, self.node.users if self.has_statistics else [])
        return sorted(found, key=lambda result: result.args[1])

    @property
    def has_statistics(self) -> bool:
        """Whether its operator returns them beside the output."""
        return op(self.node).startswith("native_")

    @property
    def source(self) -> fx.Node:
        """What is normalised."""
        return self.node.args[0] if self.node.args else self.node.kwargs["input"]

    @property
    def exit(self) -> fx.Node:
        """The node that the rest of the graph reads."""
        if self.activation:
            return self.activation.cone.exit
        return self.results[0] if self.results else self.node


def _is_one_result(user: fx.Node) -> bool:
    return user.target is operator.getitem and user.args[1] in range(3)


def rewrite_norms(gm: fx.GraphModule) -> list[Plan]:
    """Let norms keep their outputs in a graph and in those that it calls, where it saves a tensor.

    Returns: what was decided, one plan a graph, the caller's first.
    """
    inner = (rewrite_norms(gm.get_submodule(name)) for name in called(gm))
    return [_rewrite(gm), *itertools.chain.from_iterable(inner)]


def _rewrite(gm: fx.GraphModule) -> Plan:
    uses = Uses(differentiable(gm.graph), spans(gm.graph))
    norms = list(_norms(gm.graph, uses))
    refusals = [_why_not(norm, uses) for norm in norms]
    entries = tuple(_entry(*pair) for pair in zip(norms, refusals, strict=True))
    for norm, why in zip(norms, refusals, strict=True):
        if why is None:
            _replace(gm.graph, norm)
    gm.graph.lint()
    gm.recompile()
    return Plan(entries)


def _norms(graph: fx.Graph, uses: Uses) -> Iterator[Norm]:
    nodes = [node for node in graph.nodes if op(node) in KINDS and node in uses.wanted]
    followed: dict[fx.Node, Activation] = {}
    if any(op(node) == "batch_norm" for node in nodes):
        with plainly():
            followed = {found.cone.source: found for found in find(graph)[0]}
    for node in nodes:
        activation = followed.get(node)
        yield Norm(node, activation if activation and _is_one(node, activation, uses) else None)


def _is_one(node: fx.Node, activation: Activation, uses: Uses) -> bool:
    """Whether a batch norm and an activation can be kept as the activation's output."""
    inside = set(activation.cone.nodes)
    return (
        activation.name in INVERTIBLE
        and activation.parameters[0] > 0
        and not activation.cast
        and set(readers(node)) <= inside
        and uses.stretch[activation.cone.exit] == _born(node, uses)
    )


def _born(node: fx.Node, uses: Uses) -> int:
    """Return the stretch in which a value is first read."""
    return uses.stretch[node] + overwrites(node)


def _why_not(norm: Norm, uses: Uses) -> str | None:
    """Return why a norm is left as it is, None where it is to keep its output."""
    if norm.node.op == "call_module" and op(norm.node) == "batch_norm":
        return "a module that has a mode and counts batches: fxmem.convert has a drop-in for it"
    if norm.has_statistics and not all(map(_is_one_result, norm.node.users)):
        return "its results are read together"
    if any(result.args[1] and readers(result) for result in norm.results):
        return "its mean or deviation is read too"
    output_keeper = keeper(norm.exit, uses.wanted)
    if output_keeper is None:
        return "nothing else keeps its output"
    if uses.stretch[output_keeper] != _born(norm.exit, uses):
        return f"something is overwritten before {output_keeper.name} reads its output"
    source_keeper = keeper(norm.source, uses.wanted, but=frozenset([norm.node]))
    return source_keeper and f"{source_keeper.name} keeps its input too"


def _replace(graph: fx.Graph, norm: Norm) -> None:
    node = norm.node
    with graph.inserting_before(node):
        args, kwargs = _arguments(graph, node)
    if norm.activation:
        kwargs = {**kwargs, "activation": (norm.activation.name, norm.activation.parameters[0])}
    with graph.inserting_before(norm.exit):
        output = graph.call_function(FUNCTIONS[norm.kind], args, kwargs)
    output.meta = dict(norm.exit.meta)
    if norm.activation:
        replace(graph, norm.activation, output)
    else:
        results = norm.results
        norm.exit.replace_all_uses_with(output)
        for result in results:
            erase(graph, result)
    erase(graph, node)


def _arguments(graph: fx.Graph, node: fx.Node) -> tuple[tuple, dict[str, Any]]:
    """Return a norm's arguments as torch.nn.functional names and orders them."""
    if node.op == "call_module":
        return (Norm(node).source,), _of_module(graph, node)
    if isinstance(node.target, torch._ops.OpOverload) or node.target in C_FUNCTIONS:
        given = {**dict(zip(ATEN[op(node)], node.args, strict=False)), **node.kwargs}
        names = ATEN[Norm(node).kind]
        return (), {name: value for name, value in given.items() if name in names}
    return node.args, node.kwargs


def _of_module(graph: fx.Graph, node: fx.Node) -> dict[str, Any]:
    module, setting = module_of(node), SETTINGS[op(node)]
    names = [name for name in ("weight", "bias") if getattr(module, name, None) is not None]
    weights = {name: graph.get_attr(f"{node.target}.{name}") for name in names}
    return {setting: getattr(module, setting), "eps": module.eps, **weights}


def _entry(norm: Norm, why: str | None) -> Site | Refusal:
    node = norm.node
    shape, dtype = shape_of(norm.exit), dtype_of(norm.source) or torch.float32
    sizes = tuple(s if isinstance(s, int) else str(s) for s in shape or ("?",))
    count = math.prod(hint(size) or 0 for size in shape or (0,))
    kind = str(dtype).removeprefix("torch.")
    # A batch norm and what follows it each keep an input.
    size = count * dtype.itemsize * (1 + (norm.activation is not None))
    residual = Residual(node.name, module_path(node), norm.kind, sizes, kind, size)
    if why is not None:
        return Refusal(residual, NAME, why)
    return Site(residual, NAME, ACTION, 0, "exact")


def noted(gm: fx.GraphModule) -> Iterator[str]:
    """Yield why the rule leaves the norms of a graph that is about to be compiled alone."""
    count = sum(op(node) in KINDS for node in gm.graph.nodes)
    if count:
        yield (
            f"{count} x norm: {NAME} is left out of compiled models: the cut keeps one tensor a "
            "norm and recomputes its output from it"
        )
