"""Norms whose output a neighbour keeps: they keep it too, and not their input.

fxmem.ops.norms computes them, and says which channels' normalised input is kept beside it. It pays
only where a graph is run as it is: a compiler's own cut recomputes a norm's output, and keeps one
tensor a norm as it is. Of a norm that is written by hand eager keeps more than one tensor: there
its output alone is less even where nothing else keeps it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

from torch import fx

from fxmem.compat import hint
from fxmem.passes.forward.activations import Activation, find
from fxmem.passes.forward.constants import constants
from fxmem.passes.forward.dialect import op
from fxmem.passes.forward.differentiated import differentiated
from fxmem.passes.forward.eager import plainly
from fxmem.passes.forward.effects import overwrites, readers, spans
from fxmem.passes.forward.emit import erase, replace
from fxmem.passes.forward.nested import called
from fxmem.passes.forward.norms.idioms import find as find_idioms
from fxmem.passes.forward.norms.nodes import KINDS, Norm, call_of, is_changed, of_idiom, of_node
from fxmem.passes.forward.norms.refusals import Uses, priced, why_not
from fxmem.passes.forward.traced import shape_of
from fxmem.passes.forward.uses import differentiable
from fxmem.passes.graph import module_path
from fxmem.plan import Plan, Refusal, Residual, Site

NAME = "norm_from_output"
ACTION = "kept as its output"
INVERTIBLE = ("leaky_relu", "elu")


def rewrite_norms(gm: fx.GraphModule) -> list[Plan]:
    """Let norms keep their outputs in a graph and in those that it calls, where it saves a tensor.

    Returns: what was decided, one plan a graph, the caller's first.
    """
    inner = (rewrite_norms(gm.get_submodule(name)) for name in called(gm))
    return [_rewrite(gm), *itertools.chain.from_iterable(inner)]


def _rewrite(gm: fx.GraphModule) -> Plan:
    with plainly():
        norms, uses, notes = _found(gm.graph)
        otherwise = differentiated(gm.graph)
        refusals = [otherwise.get(norm.exit) or why_not(norm, uses) for norm in norms]
    entries = tuple(_entry(n, why, uses) for n, why in zip(norms, refusals, strict=True))
    for norm, why in zip(norms, refusals, strict=True):
        if why is None:
            _replace(gm.graph, norm)
    gm.graph.lint()
    gm.recompile()
    return Plan(entries, tuple(notes))


def _found(graph: fx.Graph) -> tuple[list[Norm], Uses, list[str]]:
    """Return the norms of a graph in order, what is around them, and what only looks like one."""
    wanted = differentiable(graph)
    nodes = [n for n in graph.nodes if n in wanted and (op(n) in KINDS or is_changed(n))]
    idioms, notes = find_idioms(graph)
    norms = [of_node(node) for node in nodes]
    norms += [of_idiom(idiom, wanted) for idiom in idioms if idiom.cone.exit in wanted]
    activations = {a.cone.source: a for a in find(graph)[0]} if norms else {}
    uses = Uses(wanted, spans(graph), constants(graph), activations)
    ordered = sorted(norms, key=lambda norm: norm.node)
    return [_with_activation(norm, uses) for norm in ordered], uses, notes


def _with_activation(norm: Norm, uses: Uses) -> Norm:
    """Return a batch norm together with an activation that can be kept as one output with it."""
    activation = uses.activations.get(norm.exit)
    if norm.kind != "batch_norm" or activation is None or not _is_one(norm, activation, uses):
        return norm
    # Each of the two keeps its input.
    size = norm.kept[0]
    return dataclasses.replace(
        norm, exit=activation.cone.exit, activation=activation, kept=(size, size)
    )


def _is_one(norm: Norm, activation: Activation, uses: Uses) -> bool:
    exit = activation.cone.exit
    return (
        activation.name in INVERTIBLE
        and activation.parameters[0] > 0
        and not activation.cast
        and set(readers(norm.exit)) <= set(activation.cone.nodes)
        and uses.stretch[exit] - overwrites(exit) == uses.born(norm.exit)
    )


def _replace(graph: fx.Graph, norm: Norm) -> None:
    with graph.inserting_before(norm.nodes[0]):
        attributes = call_of(graph, norm)
    target, args, kwargs = attributes
    if norm.activation:
        kwargs = {**kwargs, "activation": (norm.activation.name, norm.activation.parameters[0])}
    with graph.inserting_before(norm.exit):
        output = graph.call_function(target, args, kwargs)
    output.meta = dict(norm.exit.meta)
    if norm.activation:
        replace(graph, norm.activation, output)
    else:
        norm.exit.replace_all_uses_with(output)
    numbers = norm.idiom.cone.constants if norm.idiom else ()
    for node in reversed(norm.nodes):
        erase(graph, node, numbers)


def _entry(norm: Norm, why: str | None, uses: Uses) -> Site | Refusal:
    shape = shape_of(norm.exit)
    sizes = tuple(s if isinstance(s, int) else str(s) for s in shape or ("?",))
    count = math.prod(hint(size) or 0 for size in shape or (0,))
    before, after = (count * bits // 8 for bits in priced(norm, uses))
    kind, path = str(norm.dtype).removeprefix("torch."), module_path(norm.node)
    residual = Residual(norm.node.name, path, norm.kind, sizes, kind, before)
    if why is not None:
        return Refusal(residual, NAME, why)
    return Site(residual, NAME, ACTION, after, "exact")


def noted(gm: fx.GraphModule) -> Iterator[str]:
    """Yield why the rule leaves the norms of a graph that is about to be compiled alone."""
    count = sum(op(node) in KINDS for node in gm.graph.nodes)
    if count:
        yield (
            f"{count} x norm: {NAME} is left out of compiled models: the cut keeps one tensor a "
            "norm and recomputes its output from it"
        )
