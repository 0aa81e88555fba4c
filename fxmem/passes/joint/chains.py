"""Finding reversible chains: couplings s_k = s_{k-2} ∘ F(s_{k-1}) in a forward graph.

A link alone cannot be told from any other addition: which node is its stream shows in the next,
which adds to it. So links are found in pairs, m = z ∘ G(x) and n = x ∘ F(m), where F reads x only
through m, and G reads z only through x (Gomez et al., The Reversible Residual Network, 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import fx

from fxmem.passes.graph import ancestors, aten, tensor

ADDITIVE = (aten.add.Tensor, aten.sub.Tensor)


@dataclass(frozen=True)
class Link:
    """One coupling: `out` = `skip` ∘ `branch`, where `branch` is computed from `stream`."""

    out: fx.Node
    skip: fx.Node
    branch: fx.Node
    stream: fx.Node


Chain = list[Link]
Operands = tuple[fx.Node, fx.Node]


def find_chains(forward: Iterable[fx.Node]) -> list[Chain]:
    """Return the chains of two links and more among the nodes of a forward, in its order."""
    nodes = list(forward)
    couplings = {node: list(_operands(node)) for node in nodes}
    couplings = {node: operands for node, operands in couplings.items() if operands}
    above = _Above(nodes, couplings)
    links: dict[fx.Node, Link] = {}
    following: dict[Link, Link] = {}
    for node in couplings:
        _extend(node, couplings, above, links, following)
    heads = [link for link in following if link not in following.values()]
    return [list(_walk(head, following)) for head in heads]


def _walk(link: Link | None, following: dict[Link, Link]) -> Iterator[Link]:
    while link is not None:
        yield link
        link = following.get(link)


def _operands(node: fx.Node) -> Iterator[Operands]:
    """Yield the ways in which a node is a skip operand and a branch, as far as types can tell."""
    if node.target not in ADDITIVE or not _is_floating(node):
        return
    first, second = node.args
    both = isinstance(first, fx.Node) and isinstance(second, fx.Node) and first is not second
    if not both or None in (tensor(first), tensor(second)):
        return
    if _like(first, node):
        yield first, second
    if _like(second, node) and node.kwargs.get("alpha", 1) == 1:
        yield second, first


def _is_floating(node: fx.Node) -> bool:
    value = tensor(node)
    return value is not None and value.is_floating_point()


def _like(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors agree in shape and dtype, compared as they are written: no guards."""
    x, y = tensor(a), tensor(b)
    return x.dtype == y.dtype and str(x.shape) == str(y.shape)


def _extend(
    node: fx.Node,
    couplings: dict[fx.Node, list[Operands]],
    above: _Above,
    links: dict[fx.Node, Link],
    following: dict[Link, Link],
) -> None:
    """Find the link that `node` is, by the one before it; record both."""
    for skip, branch in couplings[node]:
        for middle in above.couplings(branch, skip):
            link = Link(node, skip, branch, middle)
            for z, g in couplings[middle]:
                before = Link(middle, z, g, skip)
                known = links.get(middle, before)
                if known != before or before in following:
                    continue
                if above.passes(before) and above.passes(link):
                    links[middle], links[node] = before, link
                    following[before] = link
                    return


class _Above:
    """What each node depends on, as bits: only couplings and their operands have one."""

    def __init__(self, nodes: list[fx.Node], couplings: dict[fx.Node, list[Operands]]) -> None:
        marked = [*couplings, *(n for pairs in couplings.values() for pair in pairs for n in pair)]
        self.bits = {node: 1 << i for i, node in enumerate(dict.fromkeys(marked))}
        self.order = list(couplings)[::-1]
        self.bit_sets: dict[fx.Node, int] = {}
        for node in nodes:
            found = self.bits.get(node, 0)
            for source in node.all_input_nodes:
                found |= self.bit_sets.get(source, 0)
            self.bit_sets[node] = found

    def has(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether `node` is, or is computed from, the marked node `other`."""
        return bool(self.bit_sets.get(node, 0) & self.bits[other])

    def couplings(self, node: fx.Node, origin: fx.Node) -> list[fx.Node]:
        """Return the couplings between `origin` and what is computed from it, the nearest first."""
        found = self.bit_sets.get(node, 0)
        return [c for c in self.order if found & self.bits[c] and self.has(c, origin)]

    def passes(self, link: Link) -> bool:
        """Whether the branch reads its stream, and what it is added to only through the stream."""
        if link.branch is link.stream or not self.has(link.branch, link.stream):
            return False
        if self.has(link.skip, link.stream):
            return False
        return link.skip not in ancestors([link.branch], lambda n: n is link.stream)
