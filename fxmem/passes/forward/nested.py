"""Graphs that a graph calls as they are: submodules, and nested compiled regions."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx
from torch._higher_order_ops.invoke_subgraph import invoke_subgraph

from fxmem.passes import graph


def called(gm: fx.GraphModule) -> list[str]:
    """Return the names of the graphs that a graph calls.

    Checkpointed regions and those without gradients keep nothing, so they are none of these.
    """
    calls = [node.target for node in gm.graph.find_nodes(op="call_module")]
    regions = gm.graph.find_nodes(op="call_function", target=invoke_subgraph)
    modules = {n: gm.get_submodule(n) for n in [*calls, *(r.args[0].target for r in regions)]}
    return [name for name, module in modules.items() if isinstance(module, fx.GraphModule)]


def unread(gm: fx.GraphModule) -> list[fx.GraphModule]:
    """Return the graphs within a graph that are not called as they are: checkpoint's, cond's."""
    read = {id(graph) for graph in _read(gm)}
    graphs = (module for module in gm.modules() if isinstance(module, fx.GraphModule))
    return [graph for graph in graphs if id(graph) not in read]


def _read(gm: fx.GraphModule) -> Iterator[fx.GraphModule]:
    yield gm
    for name in called(gm):
        yield from _read(gm.get_submodule(name))


def copied(gm: fx.GraphModule) -> fx.GraphModule:
    """Copy a graph and those that it calls; parameters, buffers and other modules are shared."""
    result = graph.copied(gm)
    for name in called(result):
        result.set_submodule(name, copied(result.get_submodule(name)))
    return result
