"""The activations of a graph: each a cone that computes a row of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.passes.forward.cones import Cone, cones
from fxmem.passes.forward.constants import constants
from fxmem.passes.forward.dialect import is_cast, is_pointwise, lays_out, op
from fxmem.passes.forward.effects import overwrites, readers, spans
from fxmem.passes.forward.known import identify
from fxmem.passes.forward.traced import dtype_of
from fxmem.passes.forward.uses import NORMS, PRODUCTS

HALVES = (torch.bfloat16, torch.float16)
# Of the source's dtype, on [-4, 4]: more than a spelling makes, fewer than a narrower dtype's one.
ROUNDINGS = 64


@dataclass(frozen=True)
class Activation:
    """A cone and the row of the table that it computes.

    Args:
        cast: whether the cone's last node, a cast to half precision, is to stay: nothing says
            whether the source has that dtype already.
    """

    cone: Cone
    name: str
    parameters: tuple[float, ...]
    cast: bool = False


def find(graph: fx.Graph) -> tuple[list[Activation], list[str]]:
    """Return the activations in a graph, the largest cones first, and why some are not taken."""
    stretch, numbers = spans(graph), constants(graph)
    found: list[Activation] = []
    notes: list[str] = []
    taken: set[fx.Node] = set()
    for exit in reversed(graph.nodes):
        if exit in taken or not readers(exit):
            continue
        for activation in _ending_in(exit, stretch, numbers):
            why = _why_not(activation.cone)
            if why is None:
                found.append(activation)
                taken.update(activation.cone.nodes)
                break
            notes.append(f"{exit.name}: {activation.name}, but {why}")
    return found[::-1], notes[::-1]


def _ending_in(
    exit: fx.Node, stretch: Mapping[fx.Node, int], numbers: Mapping[fx.Node, torch.Tensor]
) -> Iterator[Activation]:
    for cone in reversed(list(cones(exit, numbers, _is_part))):
        together = len({stretch[node] for node in cone.nodes}) == 1
        known = identify(cone) if together and not _begins_with_copy(cone) else None
        if known:
            yield from _with_dtype(Activation(cone, *known))


def _is_part(node: fx.Node) -> bool:
    """Whether an activation may take a node in: its output has its input's strides."""
    return is_pointwise(node) and not lays_out(node)


def _begins_with_copy(cone: Cone) -> bool:
    """Whether a cone takes in a copy of its source, which the program may overwrite later."""
    return any(op(node) == "clone" and node.args[0] is cone.source for node in cone.nodes)


def _with_dtype(activation: Activation) -> Iterator[Activation]:
    """Yield the activation if its output has its input's dtype, or can be given it by its cast."""
    cone = activation.cone
    known = dtype_of(cone.source), dtype_of(cone.exit)
    if None not in known:
        if known[0] == known[1] and known[0].is_floating_point and not _narrows(cone, known[0]):
            yield activation
        return
    results = {dtype: _result(cone, dtype) for dtype in (torch.float32, *HALVES)}
    if all(before == after for before, after in results.items()):
        if not _narrows(cone, torch.float32):
            yield activation
    elif is_cast(cone.exit) and set(results.values()) in [{half} for half in HALVES]:
        yield Activation(cone, activation.name, activation.parameters, cast=True)


def _result(cone: Cone, dtype: torch.dtype) -> torch.dtype | None:
    result = cone.run(torch.ones(1, dtype=dtype), casts=True)
    return None if result is None else result.dtype


def _narrows(cone: Cone, dtype: torch.dtype) -> bool:
    """Whether a cone rounds to less than its source's precision on the way."""
    points = torch.linspace(-4, 4, 65, dtype=dtype)
    # A clone, for a cone may write into its source.
    found, exact = cone.run(points.clone(), casts=True), cone.run(points.double(), casts=False)
    if found is None or exact is None:
        return True
    error = (found.double() - exact).abs() / (1 + exact.abs())
    return error.max().item() > ROUNDINGS * torch.finfo(dtype).eps


def _why_not(cone: Cone) -> str | None:
    inside = set(cone.nodes)
    for node in cone.nodes[:-1]:
        for user in readers(node):
            if user not in inside:
                return f"{user.name} reads {node.name} inside of it"
    if overwrites(cone.exit) and not _is_fresh(cone.source):
        return f"it overwrites {cone.source.name}, which others may see"
    return None


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value has a storage of its own and one reader: to overwrite it shows nowhere."""
    fresh = op(node) in NORMS | PRODUCTS.keys() or (is_pointwise(node) and not is_cast(node))
    return fresh and not overwrites(node) and len(readers(node)) == 1
