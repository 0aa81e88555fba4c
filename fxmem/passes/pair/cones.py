"""What a kept value is for: functions of it, element by element, that weigh gradients.

An activation is differentiated before the passes on pairs, so its derivative stands in the backward
whatever the activation is called: no list of activations is needed, nor of the ways to write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from fxmem.passes.graph import ancestors, from_tangents, numel, tensor
from fxmem.passes.operators import LITERALS, is_pointwise
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.products import Factors, products, shape, spread
from fxmem.passes.pair.sensitivity import is_elementwise


@dataclass(frozen=True)
class Exit:
    """A value of the backward: a function of the root times factors that do not know the root."""

    node: fx.Node
    factors: Factors


@dataclass(frozen=True)
class Cone:
    """All that the backward makes of one value of the forward, element by element.

    Attributes:
        root: the value, in the forward.
        twins: functions of the root that both graphs have: the backward's node, the forward's.
        functions: all functions of the root in the backward.
        exits: gradients weighed by a function of the root, as the rest of the backward reads them.
    """

    root: fx.Node
    twins: dict[fx.Node, fx.Node]
    functions: frozenset[fx.Node]
    exits: tuple[Exit, ...]

    @property
    def weighs(self) -> bool:
        """Whether a gradient is weighed by more than the root itself, as activations do it."""
        roots = {n for n, twin in self.twins.items() if twin is self.root}
        stop = roots.union(*(exit.factors for exit in self.exits))
        made_of = ancestors([exit.node for exit in self.exits], stop.__contains__)
        return not (self.functions - roots).isdisjoint(made_of)

    @cached_property
    def idle(self) -> set[fx.Node]:
        """What nothing in the backward reads once the exits are no longer made of it."""
        exits = {exit.node for exit in self.exits}
        factors = {factor for exit in self.exits for factor in exit.factors}
        found: set[fx.Node] = set()
        for node in sorted(ancestors(exits, factors.__contains__), reverse=True):
            if node not in exits | factors and found.union(exits).issuperset(node.users):
                found.add(node)
        return found


class Cones:
    """Finds the cones in a pair of graphs, and changes nothing."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.tainted = from_tangents(pair.backward.graph)
        self.forward = {n.name: n for n in pair.forward.graph.nodes}
        self.backward = {n.name: n for n in pair.backward.graph.nodes if n not in self.tainted}
        self.constants = _constants(pair.forward.graph) | _constants(pair.backward.graph)

    def of(self, storage: Storage) -> Iterator[Cone]:
        """Yield the cones of the values that stand for all that the backward reads of a storage.

        These are the kept value, and what alone is made of it (a view; a bias added, a frozen
        norm); where such a value is itself a function of one value, that: a tanh's input.
        """
        views = [view for view in storage.views if self.pair.taken(view.name).users]
        roots = dict.fromkeys(self._source(n) for view in views[:1] for n in self._below(view))
        yield from (self._cone(n) for n in roots if _is_computed_float(n))

    def arriving(self, cone: Cone) -> int:
        """Return how many numbers the gradient is before it is broadcast to what a cone weighs."""
        factors = (factor for exit in cone.exits for factor in exit.factors)
        return arriving(factors, self.tainted, numel(cone.root))

    def _below(self, kept: fx.Node) -> Iterator[fx.Node]:
        node = self.pair.taken(kept.name)
        while node not in self.tainted:
            if node.name in self.forward:
                yield self.forward[node.name]
            if len(node.users) != 1:
                return
            node = next(iter(node.users))

    def _source(self, node: fx.Node) -> fx.Node:
        """Return the first value in the forward of which alone, and of constants, this is made."""
        source, made_of = node, {node}
        # What comes last in the graph cannot be what the rest is made of.
        while made_of and is_pointwise(latest := max(made_of)):
            made_of.remove(latest)
            made_of.update(n for n in latest.all_input_nodes if n not in self.constants)
            source = next(iter(made_of)) if len(made_of) == 1 else source
        return source

    def _cone(self, root: fx.Node) -> Cone:
        own = self._functions([root])
        twins = {self.backward[n.name]: n for n in own if n.name in self.backward}
        functions = self._functions(twins)
        weighed = products(functions, self.constants)
        open_ended = sorted(n for n in weighed if not weighed.keys() >= n.users.keys())
        exits = [Exit(n, weighed[n]) for n in open_ended if not self.tainted.isdisjoint(weighed[n])]
        return Cone(root, twins, frozenset(functions), tuple(exits))

    def _functions(self, start: Iterable[fx.Node]) -> set[fx.Node]:
        """Return what is computed element by element from `start` and constants alone."""
        found = set(start)

        def admit(node: fx.Node) -> bool:
            known = all(n in found or n in self.constants for n in node.all_input_nodes)
            if known and is_pointwise(node) and shape(node) in map(shape, start):
                found.add(node)
            return node in found

        spread(start, admit)
        return found


def arriving(values: Iterable[fx.Node], tainted: set[fx.Node], unknown: int) -> int:
    """Return how many numbers the gradient is before it is broadcast to these values.

    Of a loss it is one, or one a row; whatever else that is multiplied with does not count.

    Args:
        tainted: the backward's nodes that depend on a gradient.
        unknown: the number for a gradient whose size is not known.
    """

    def came(node: fx.Node) -> bool:
        spreads = is_elementwise(node) and not tainted.isdisjoint(node.all_input_nodes)
        return node not in tainted or not spreads

    found = [n for n in ancestors(values, came) if n in tainted and came(n)]
    return max(numel(n) or unknown for n in found)


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Return what is the same single number on every call."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        literal = node.target in LITERALS or (node.all_input_nodes and is_pointwise(node))
        if (literal or _is_number(node)) and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _is_computed_float(node: fx.Node) -> bool:
    value = tensor(node)
    return node.op == "call_function" and value is not None and value.is_floating_point()


def _is_number(node: fx.Node) -> bool:
    return node.op == "get_attr" and tensor(node) is not None and tensor(node).numel() == 1
