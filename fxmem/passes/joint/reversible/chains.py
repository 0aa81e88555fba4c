"""Finding reversible chains: couplings s_k = s_{k-2} ∘ F(s_{k-1}) in a forward graph.

A link alone cannot be told from any other addition: which node is its stream shows in the next,
which adds to it. So links are found in pairs, m = z ∘ G(x) and n = x ∘ F(m), where F reads x only
through m, and G reads z only through x (Gomez et al., The Reversible Residual Network, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import takewhile

from torch import fx

from fxmem.passes.graph import ancestors, aten
from fxmem.passes.joint.reversible.couplings import steps
from fxmem.passes.joint.reversible.reshaped import VIEWS
from fxmem.passes.joint.reversible.steps import Step
from fxmem.passes.operators import CAST

# Operations in one coupling, as f*exp(t) + F has two; views and copies are not counted.
LONGEST = 4
ADDITIVE = {
    *(aten.add.Tensor, aten.sub.Tensor, aten.addcmul.default, aten.addcdiv.default),
    *(aten.where.self, CAST),  # of a sum
}


@dataclass(frozen=True)
class Link:
    """One coupling: `steps` lead from `skip` to `out`, and what they add is made of `stream`."""

    steps: tuple[Step, ...]
    stream: fx.Node

    @property
    def out(self) -> fx.Node:
        """The state after it."""
        return self.steps[-1].out

    @property
    def skip(self) -> fx.Node:
        """The state before it that is carried on."""
        return self.steps[0].state

    @property
    def sides(self) -> list[fx.Node]:
        """What the state is combined with."""
        return [side for step in self.steps for side in step.sides]


Chain = list[Link]
Path = tuple[Step, ...]
Steps = Callable[[fx.Node], Iterable[Step]]


def find_chains(forward: Iterable[fx.Node], steps: Steps = steps) -> list[Chain]:
    """Return the chains of two links and more among the nodes of a forward, in its order.

    Args:
        steps: the ways in which a node carries a state on.
    """
    return _Finder(list(forward), steps).chains()


@dataclass(frozen=True)
class _Found:
    """A link, and the longest way to it."""

    link: Link
    before: _Found | None
    length: int


class _Finder:
    """Finds the longest way to each link, in the order of the forward."""

    def __init__(self, nodes: list[fx.Node], steps: Steps) -> None:
        self.inside, self.steps = set(nodes), steps
        paths = {node: list(self._paths(node)) for node in nodes}
        self.paths = {node: found for node, found in paths.items() if found}
        self.above = _Above(nodes, self.paths)
        # By what a link makes, and of what.
        self.found: dict[tuple[fx.Node, fx.Node], _Found] = {}

    def chains(self) -> list[Chain]:
        """Return chains that share no state that they make, the longest chosen first, in order."""
        for node in self.paths:
            self._extend(node)
        taken: set[fx.Node] = set()
        chains = []
        waiting = [(-found.length, i, found) for i, found in enumerate(self.found.values())]
        heapify(waiting)
        while waiting:
            length, i, last = heappop(waiting)
            chain = list(takewhile(lambda link: link.out not in taken, _walk(last)))[::-1]
            if len(chain) == -length > 1:
                taken.update(link.out for link in chain)
                chains.append(chain)
            elif len(chain) > 1:  # the chain before took its first links
                heappush(waiting, (-len(chain), i, last))
        self._hand_on(chains)
        return sorted(chains, key=lambda chain: chain[0].out)

    def _hand_on(self, chains: list[Chain]) -> None:
        """Give a link that two chains claim to the later one, which carries on what it makes.

        Behind a layer on one stream a link reads that layer, and through it the chain before.
        """
        ends = {chain[-1].out: chain for chain in chains if len(chain) > 2}
        for chain in chains:
            first = self.found.get((chain[0].stream, chain[0].skip))
            if first is not None and chain[0].stream in ends:
                ends.pop(chain[0].stream).pop()
                chain.insert(0, first.link)

    def _users(self, node: fx.Node, within: frozenset[fx.Node] = frozenset()) -> int:
        """Count what reads a node, all that is within one step as one."""
        others = sum(user in self.inside and user not in within for user in node.users)
        return others + bool(within)

    def _paths(self, node: fx.Node) -> Iterator[Path]:
        """Yield the ways from a state to `node`, the shortest first.

        Between them nothing else is read, or it would be the state.
        """
        found = [(step,) for step in self.steps(node)]
        for path in found:
            if any(step.out.target in ADDITIVE for step in path):
                yield path
            before = path[0].state
            counted = sum(step.out.target not in VIEWS for step in path)
            if counted < LONGEST and self._users(before, path[0].within) == 1:
                found += [(step, *path) for step in self.steps(before)]

    def _extend(self, node: fx.Node) -> None:
        """Find the links that `node` may be, each by one before it."""
        for path in self.paths[node]:
            skip = path[0].state
            if self._users(skip) < 2:  # the branch before, and this
                continue
            sides = [side for step in path for side in step.sides]
            for middle in self.above.between(node, sides, skip):
                link = Link(path, middle)
                known = self.found.get((node, middle))
                before = self._before(middle, skip)
                better = before and (known is None or before.length >= known.length)
                if better and self.above.passes(link):
                    self.found[node, middle] = _Found(link, before, before.length + 1)

    def _before(self, middle: fx.Node, stream: fx.Node) -> _Found | None:
        """Return the longest way to a link that makes `middle` of the stream."""
        if (middle, stream) not in self.found:
            links = (Link(path, stream) for path in self.paths[middle])
            link = next(filter(self.above.passes, links), None)
            if link is None:
                return None
            self.found[middle, stream] = _Found(link, None, 1)
        return self.found[middle, stream]


def _walk(found: _Found | None) -> Iterator[Link]:
    while found is not None:
        yield found.link
        found = found.before


class _Above:
    """What each node depends on, as bits: only states, and what is combined with them, have one."""

    def __init__(self, nodes: list[fx.Node], paths: dict[fx.Node, list[Path]]) -> None:
        marked = dict.fromkeys(paths)
        marked.update(dict.fromkeys(path[0].state for found in paths.values() for path in found))
        self.bits = {node: 1 << i for i, node in enumerate(marked)}
        self.couplings = list(paths)
        self.at = {node: i for i, node in enumerate(paths)}
        self.bit_sets: dict[fx.Node, int] = {}
        for node in nodes:
            found = self.bits.get(node, 0)
            for source in node.all_input_nodes:
                found |= self.bit_sets.get(source, 0)
            self.bit_sets[node] = found

    def has(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether `node` is, or is computed from, the marked node `other`."""
        return bool(self.bit_sets.get(node, 0) & self.bits[other])

    def between(self, node: fx.Node, sides: list[fx.Node], origin: fx.Node) -> Iterator[fx.Node]:
        """Yield the couplings before `node` that `sides` read and `origin` is in, nearest first."""
        found = 0
        for side in sides:
            found |= self.bit_sets.get(side, 0)
        if not found & self.bits[origin]:
            return
        for i in range(self.at[node] - 1, -1, -1):
            coupling = self.couplings[i]
            if coupling is origin or coupling < origin:
                return
            if found & self.bits[coupling] and self.has(coupling, origin):
                yield coupling

    def passes(self, link: Link) -> bool:
        """Whether the branch reads its stream, and what it is added to only through the stream."""
        if self.has(link.skip, link.stream):
            return False
        if not any(self.has(side, link.stream) for side in link.sides):
            return False
        if any(step.scale is link.stream for step in link.steps):  # a product of two streams
            return False

        def settled(node: fx.Node) -> bool:
            return node is link.stream or node < link.skip

        return link.skip not in ancestors(link.sides, settled)
