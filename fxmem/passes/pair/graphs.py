"""The pair after the cut: a forward graph that keeps values and a backward graph that takes them.

AOTAutograd's calling convention, which every change here preserves: the forward returns
`(outputs..., kept tensors..., kept sizes...)`, the backward takes `(kept sizes..., kept tensors...,
tangents...)`, kept tensors in the same order on both sides and under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from fxmem.compat import saved_descriptors, unchecked
from fxmem.passes.graph import describe, memory, nbytes, owner, tensor, view_chain
from fxmem.plan import Residual


@dataclass(frozen=True)
class Storage:
    """Memory kept for the backward.

    Attributes:
        owner: the forward node that owns it; of what leaves a nested region, the first that does.
        views: the nodes that are kept, all of this memory.
        nbytes: of the whole, which a view keeps alive.
    """

    owner: fx.Node
    views: tuple[fx.Node, ...]
    nbytes: int

    @property
    def record(self) -> Residual:
        """What plans and reports say of it."""
        return describe(self.owner, self.views[0].name, self.nbytes)


class Pair:
    """A forward and a backward graph, and the only ways in which passes change them.

    Args:
        forward, backward: the two halves, as a partitioner of AOTAutograd returns them.
        num_outputs: how many outputs of the forward belong to the caller.
        static: names of the forward's inputs that are parameters or buffers.
    """

    def __init__(
        self,
        forward: fx.GraphModule,
        backward: fx.GraphModule,
        num_outputs: int,
        static: frozenset[str] = frozenset(),
    ) -> None:
        self.forward, self.backward = forward, backward
        self.num_outputs, self.static = num_outputs, static

    @property
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """What the forward returns to its caller."""
        return self._returned()[: self.num_outputs]

    @property
    def saved(self) -> list[fx.Node]:
        """The forward nodes whose tensors are kept, in order."""
        kept, taken = self._returned()[self.num_outputs :], self._placeholders()
        return [n for n in kept if tensor(n) is not None and n.name in taken]

    def storages(self) -> list[Storage]:
        """Return what is kept beyond the caller's own inputs, one entry a storage, in order."""
        return [
            Storage(owner(members[0]), tuple(members), nbytes(where[-1]))
            for where, members in self.memories().items()
            if where[-1].op != "placeholder" and not _is_empty(where[-1])
        ]

    def memories(self) -> dict[tuple[fx.Node, ...], list[fx.Node]]:
        """Return the kept nodes by what stands for their memory, the caller's inputs included."""
        views: dict[tuple[fx.Node, ...], list[fx.Node]] = {}
        for node in self.saved:
            views.setdefault(memory(self.forward, node), []).append(node)
        return views

    def kept(self) -> int:
        """Return the bytes of all that is kept beyond the caller's own inputs."""
        return sum(storage.nbytes for storage in self.storages())

    def taken(self, name: str) -> fx.Node:
        """Return the backward's placeholder for the kept forward node of that name."""
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, fx.Node]:
        """The backward's placeholders, and some erased ones, for which nobody asks."""
        return self._placeholders()

    @cached_property
    def _sizes(self) -> dict[Any, fx.Node]:
        """The sizes that the backward is given, of which no pass adds or drops one."""
        return _bound(self.backward.graph)

    @cached_property
    def activations(self) -> set[fx.Node]:
        """What the forward computes from inputs that are neither parameters nor buffers."""
        found: set[fx.Node] = set()
        for node in self.forward.graph.nodes:
            is_input = node.op == "placeholder" and tensor(node) is not None
            if (is_input and node.name not in self.static) or not found.isdisjoint(
                node.all_input_nodes
            ):
                found.add(node)
        return found

    def knows_sizes(self, storage: Storage) -> bool:
        """Whether the backward can compute every size that the storage and its views have."""
        value = tensor(storage.owner)
        sizes = [*value.shape, *value.stride()]
        for view in storage.views:
            inputs = (n.meta["val"] for step in view_chain(view)[1:] for n in step.all_input_nodes)
            sizes += [*tensor(view).shape, *tensor(view).stride(), *inputs]
        exprs = [size.node.expr for size in sizes if isinstance(size, torch.SymInt)]
        known = self._sizes.keys()
        return all(expr in known or expr.free_symbols <= known for expr in exprs)

    def swap(self, members: Sequence[fx.Node], values: Sequence[fx.Node]) -> list[fx.Node]:
        """Keep `values` in place of the kept nodes `members`; return the backward's placeholders.

        The members' placeholders stay, for the caller to replace and erase.
        """
        self.__dict__.pop("activations", None)  # the forward has grown
        keep_unchecked = all(map(unchecked, members))
        for value in values:
            value.meta["saved_tensor_with_no_vc_check"] = keep_unchecked
        kept = list(self._returned()[self.num_outputs :])
        at = kept.index(members[0])
        rest = [node for node in kept[at:] if node not in members]
        self._return([*self.outputs, *kept[:at], *values, *rest])
        return self._take(values, before=self.taken(members[0].name))

    def keep(self, value: fx.Node) -> fx.Node:
        """Keep one more tensor; return the backward's placeholder for it, of the same name."""
        self.__dict__.pop("activations", None)  # the forward may have grown
        if value.op != "placeholder":
            value._rename(f"{value.name}_kept")  # its own may be taken in the backward
        value.meta["saved_tensor_with_no_vc_check"] = False  # those that have it come last
        self._return([*self.outputs, value, *self._returned()[self.num_outputs :]])
        sizes = torch.SymInt | torch.SymFloat | torch.SymBool
        first = next(
            n for n in self.backward.graph.nodes if not isinstance(n.meta.get("val"), sizes)
        )
        return self._take([value], before=first)[0]

    def prune(self) -> None:
        """Drop dead nodes on both sides, and kept tensors that the backward no longer reads."""
        self.backward.graph.eliminate_dead_code()
        taken = self._placeholders()
        unread = {n.name for n in self.saved if not taken[n.name].users}
        placeholders = [taken[name] for name in unread]
        kept = self._returned()[self.num_outputs :]
        self._return([*self.outputs, *(n for n in kept if getattr(n, "name", None) not in unread)])
        for placeholder in placeholders:
            self.backward.graph.erase_node(placeholder)
        self.forward.graph.eliminate_dead_code()

    def finish(self) -> None:
        """Check both graphs and regenerate their code."""
        for module in (self.forward, self.backward):
            module.graph.lint()
            module.recompile()

    def _returned(self) -> tuple[fx.Node | None, ...]:
        return tuple(self.forward.graph.output_node().args[0])

    def _return(self, values: Sequence[fx.Node | None]) -> None:
        output = self.forward.graph.output_node()
        output.args = (tuple(values),)
        n = self.num_outputs
        if "desc" in output.meta:
            kept = saved_descriptors(list(values[n:]))
            output.meta["desc"] = [*output.meta["desc"][:n], *kept]
        if "output_stack_traces" in output.meta:
            output.meta["output_stack_traces"] = [
                v.meta.get("stack_trace") if isinstance(v, fx.Node) else None for v in values
            ]

    def _placeholders(self) -> dict[str, fx.Node]:
        return {n.target: n for n in self.backward.graph.find_nodes(op="placeholder")}

    def _take(self, values: Sequence[fx.Node], before: fx.Node) -> list[fx.Node]:
        self.__dict__.pop("_named", None)
        placeholders = []
        for value in values:
            with self.backward.graph.inserting_before(before):
                placeholder = self.backward.graph.placeholder(value.name)
            placeholder.meta = dict(value.meta)
            placeholders.append(placeholder)
        return placeholders


def _is_empty(node: fx.Node) -> bool:
    """Whether a tensor has no elements whatever the sizes are."""
    return any(isinstance(size, int) and size == 0 for size in tensor(node).shape)


def size_arguments(graph: fx.Graph, sizes: Sequence[int | torch.SymInt]) -> list[int | fx.Node]:
    """Return sizes as arguments for a new node of `graph`, symbolic ones as nodes.

    Every symbol must be among the graph's inputs: see :meth:`Pair.knows_sizes`.
    """
    bound = _bound(graph)
    return [s if isinstance(s, int) else _size_argument(graph, s, bound) for s in sizes]


def _bound(graph: fx.Graph) -> dict[Any, fx.Node]:
    """Return the sizes that a graph is given, each with its placeholder."""
    return {
        node.meta["val"].node.expr: node
        for node in graph.find_nodes(op="placeholder")
        if isinstance(node.meta.get("val"), torch.SymInt)
    }


def _size_argument(graph: fx.Graph, size: torch.SymInt, bound: dict) -> fx.Node | int:
    expr = size.node.expr
    if expr.is_Integer:
        return int(expr)
    if expr in bound:
        return bound[expr]
    tracer = fx.proxy.GraphAppendingTracer(graph)
    symbols = {s: fx.Proxy(bound[s], tracer) for s in expr.free_symbols}
    before = set(graph.nodes)
    node = sympy_interp(PythonReferenceAnalysis, symbols, expr).node
    for new in graph.nodes:
        if new not in before:
            values = fx.map_arg(new.args, lambda n: n.meta["val"])
            new.meta["val"] = new.target(*values)
    return node
