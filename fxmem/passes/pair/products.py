"""Values that are a function of one root times something else, whatever they are spelled like.

SiLU's backward is `(g * s) * (1 + x * (1 - s))`, softsign's is a sum, softplus's a choice between
two quotients. All are linear in the gradient g, so each is g times one function of x: what the
spelling gives where g is one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from fxmem.passes.graph import aten, tensor
from fxmem.passes.operators import CASTS

PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)
QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)
SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.where.self)
SIGNED = (*CASTS, aten.neg.default, aten.clone.default)

# What a value is the product of, beside a function of the root; () where it is that function alone.
Factors = tuple[fx.Node, ...]


def products(functions: set[fx.Node], constants: set[fx.Node]) -> dict[fx.Node, Factors]:
    """Return the values that are a function of the root times factors, each with its factors.

    Args:
        functions: the functions of the root.
        constants: nodes that are always the same number.
    """
    return _Products(functions, constants).found


class _Products:
    """Finds the values that are a function of the root times something else, and times what."""

    def __init__(self, functions: set[fx.Node], constants: set[fx.Node]) -> None:
        self.functions, self.constants = functions, constants
        self.found: dict[fx.Node, Factors] = {}
        spread(functions, self._admit)
        for node in reversed(list(self.found)):
            if not self._merges(node) and self.found.keys().isdisjoint(node.users):
                del self.found[node]
        names = self._names()
        for node, factors in self.found.items():
            self.found[node] = tuple(names.get(n, n) for n in factors)

    def _admit(self, node: fx.Node) -> bool:
        factors = () if node in self.functions else self._product(node)
        fits = shape(node) == shape(next(iter(self.functions)))
        if factors and fits and tensor(node).is_floating_point():
            self.found[node] = factors
        return node in self.found

    def _merges(self, node: fx.Node) -> bool:
        """Whether a value is more than a single other one, scaled or handed on.

        A factor that is added is: g - g * f is g times 1 - f, which may be nearly nothing.
        """
        sources = set(node.all_input_nodes)
        merged = sources if node.target in SUMS else sources & self.found.keys()
        return bool(sources & self.functions) or len(merged) > 1

    def _names(self) -> dict[fx.Node, fx.Node]:
        """Return the nodes that stand for a factor wherever it is read: multiples of it, scaled.

        So the scale of a loss, which half precision may not hold, stays out of the function.
        """
        read: dict[fx.Node, set[fx.Node]] = {}
        for source in (n for node in self.found for n in node.all_input_nodes):
            if not self._is_inside(source):
                read.setdefault(self._unscaled(source), set()).add(source)
        return {factor: min(nodes) for factor, nodes in read.items() if len(nodes) == 1}

    def _product(self, node: fx.Node) -> Factors:
        """Return what a value is the product of, () where it is not linear in that."""
        args, target = node.args, node.target
        if target in PRODUCTS:
            return tuple(sorted(self._factors(args[0]) + self._factors(args[1])))
        if target in SUMS and not (len(args) == 3 and self._factors(args[0])):
            summands = {self._factors(n) for n in args[-2:] if not self._is_constant(n)}
            return summands.pop() if len(summands) == 1 else ()
        if target in SIGNED or (target in QUOTIENTS and not self._factors(args[1])):
            return self._factors(args[0])
        return ()

    def _factors(self, value: Any) -> Factors:
        if value in self.found:
            return self.found[value]
        return () if self._is_inside(value) else (self._unscaled(value),)

    def _is_inside(self, value: Any) -> bool:
        """Whether a value has no factors of its own."""
        return self._is_constant(value) or value in self.functions or value in self.found

    def _unscaled(self, node: fx.Node) -> fx.Node:
        """Return the node that a value is a multiple of: then g and 0.5 * g are one factor."""
        while node.target in (*PRODUCTS, *QUOTIENTS, *SIGNED):
            factor, *rest = node.args
            if node.target in PRODUCTS and self._is_constant(factor):
                factor, *rest = *rest, factor
            if self._is_constant(factor) or not all(map(self._is_constant, rest)):
                break
            if not tensor(factor).is_floating_point():
                break
            node = factor
        return node

    def _is_constant(self, value: Any) -> bool:
        return not isinstance(value, fx.Node) or value in self.constants


def spread(start: Iterable[fx.Node], admit: Callable[[fx.Node], bool]) -> None:
    """Offer the users of `start` and of all that is admitted, each once, in the graph's order."""
    pending = list({user for node in start for user in node.users})
    heapq.heapify(pending)
    offered = set(pending)
    while pending:
        node = heapq.heappop(pending)
        users = set(node.users) - offered if admit(node) else set()
        offered |= users
        for user in users:
            heapq.heappush(pending, user)


def shape(node: fx.Node) -> str | None:
    """Return a tensor's shape as text: to compare sizes that are not known would add a guard."""
    return None if tensor(node) is None else str(tensor(node).shape)
