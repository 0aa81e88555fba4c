"""Unary pointwise cones: nodes that together compute one function of one value, element by element.

However an activation is spelled, it is such a cone, and the cone can be run.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxmem.passes.forward.constants import call
from fxmem.passes.forward.dialect import is_cast, is_pointwise, module_of, op

LARGEST = 32


@dataclass(frozen=True)
class Cone:
    """Nodes in graph order, from the value that enters, `source`, to the last, `exit`."""

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    constants: Mapping[fx.Node, torch.Tensor] = field(repr=False, compare=False)

    @property
    def exit(self) -> fx.Node:
        """The node that the rest of the graph reads."""
        return self.nodes[-1]

    def run(self, value: torch.Tensor, *, casts: bool) -> Any:
        """Compute the exit from the source; without casts in the precision of `value`.

        Returns: None where that is impossible, as where a dtype comes from outside of the cone.
        """
        values = {**self.constants, self.source: value}
        for node in self.nodes:
            if is_cast(node) and not casts:
                values[node] = values[node.args[0]]
            else:
                given = _arguments((node.args, node.kwargs), values)
                values[node] = None if given is None else call(node, *given)
            if values[node] is None:
                return None
        return values[self.exit]

    def numbers(self) -> list[float]:
        """Return the numbers that the nodes are written with, each once."""
        found: dict[float, None] = {}
        for node in self.nodes:
            given = [*node.args, *node.kwargs.values()]
            if node.op == "call_module":
                given += vars(module_of(node)).values()
            inputs = node.all_input_nodes
            given += [self.constants[n].item() for n in inputs if n in self.constants]
            found |= {float(v): None for v in given if type(v) in (int, float)}
        return list(found)


def _arguments(given: Any, values: dict[fx.Node, Any]) -> Any:
    """Put values in place of nodes, and the CPU in place of devices; None if one is not known."""

    def known(node: fx.Node) -> Any:
        if node not in values and node.target is builtins.getattr:
            return getattr(values[node.args[0]], node.args[1])
        return values[node]

    here = torch.device("cpu")
    given = torch.fx.node.map_aggregate(given, lambda a: here if isinstance(a, torch.device) else a)
    try:
        return fx.map_arg(given, known)
    except KeyError:
        return None


def cones(
    exit: fx.Node,
    constants: Mapping[fx.Node, torch.Tensor],
    is_part: Callable[[fx.Node], bool] = is_pointwise,
) -> Iterator[Cone]:
    """Yield every cone that ends in a node, the smallest first: of nodes that `is_part` lets in."""
    inside: list[fx.Node] = []
    frontier = {exit}
    while frontier and len(inside) < LARGEST:
        # What comes last in the graph cannot be the source of the rest.
        latest = max(frontier)
        if not is_part(latest):
            return
        frontier.remove(latest)
        inside.append(latest)
        frontier.update(n for n in _operands(latest) if n not in constants)
        if len(frontier) == 1:
            (source,) = frontier
            yield Cone(source, tuple(reversed(inside)), constants)


def _operands(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose values a node computes with: others give it a dtype or a device."""
    shaped = is_cast(node) or op(node) in ("zeros_like", "ones_like", "full_like")
    return [node.args[0]] if shaped else node.all_input_nodes
