"""LayerNorm and RMSNorm as models write them by hand: found by running what they are made of.

Such a norm is a cone of pointwise operations and reductions over the last dimension, between one
value and one output; the weights that it reads are made of parameters alone. Value and gradients
are compared in float64 with torch's norms, on rows of very different sizes, which tell eps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional as F

from fxmem.passes.forward.cones import Cone, cones
from fxmem.passes.forward.constants import attribute, call, constants
from fxmem.passes.forward.dialect import is_cast, is_pointwise, op
from fxmem.passes.forward.effects import overwrites, readers, spans
from fxmem.passes.forward.traced import shape_of, traced

REDUCTIONS = {"mean", "sum", "var", "std", "var_mean", "norm", "linalg_vector_norm", "unsqueeze"}
# Constants are often spelled, or kept, with no more than float32 has.
TOLERANCE = 2.0**-20
ROWS, WIDTH = 9, 12
INVARIANT = "rows are normalised there, but as neither layer_norm nor rms_norm does it"

Leaves = Mapping[fx.Node, torch.Tensor]
Function = Callable[[torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Idiom:
    """A norm written by hand, and which.

    Args:
        leaves: what stands for each weight, [width]: of the size and dtype that it has.
        width: None if neither a weight nor a tracer tells.
    """

    cone: Cone
    kind: str
    weight: fx.Node | None
    bias: fx.Node | None
    eps: float
    width: int | None
    leaves: Leaves

    def with_ones(self, dtype: torch.dtype | None = None, wanted: Container[fx.Node] = ()) -> Cone:
        """Return the cone with ones for its weights, of their dtype or of another."""
        ones = {n: torch.ones_like(leaf, dtype=dtype) for n, leaf in self.leaves.items()}
        for node, one in ones.items():
            one.requires_grad_(node in wanted)
        return Cone(self.cone.source, self.cone.nodes, {**self.cone.constants, **ones})


def find(graph: fx.Graph) -> tuple[list[Idiom], list[str]]:
    """Return the norms written by hand in a graph, and what looks like one and is none."""
    if not any(op(node) in REDUCTIONS for node in graph.nodes):
        return [], []
    numbers, stretch = constants(graph), spans(graph)
    leaves = _leaves(graph, numbers)
    found: dict[fx.Node, Idiom] = {}
    strange: dict[fx.Node, Cone] = {}
    taken: set[fx.Node] = set()
    for exit in reversed(graph.nodes):
        if exit in taken or not readers(exit) or not is_pointwise(exit):
            continue
        for cone in reversed(list(_normalising(exit, numbers, leaves, stretch))):
            if idiom := _identified(cone, leaves):
                found[exit] = idiom
                taken.update(cone.nodes)
                break
            strange.setdefault(exit, _with_ones(cone, leaves))
    return list(found.values())[::-1], list(_said(strange, taken))[::-1]


def _leaves(graph: fx.Graph, numbers: Leaves) -> dict[fx.Node, torch.Tensor]:
    """Return zeros like each value that is made of parameters alone and is one row."""
    values: dict[fx.Node, torch.Tensor] = {}
    for node in graph.nodes:
        value = _value(node, values, numbers)
        if isinstance(value, torch.Tensor) and node not in numbers:
            values[node] = value
    return {node: value for node, value in values.items() if value.dim() == 1 and len(value) > 1}


def _value(node: fx.Node, values: Leaves, numbers: Leaves) -> torch.Tensor | None:
    """Return zeros of a parameter's size and dtype, or what is computed of such."""
    if node.op in ("get_attr", "placeholder"):
        value = attribute(node) if node.op == "get_attr" else traced(node)
        # Of what is given to the program, one row alone counts as a weight.
        if not isinstance(value, torch.Tensor) or (node.op == "placeholder" and value.dim() != 1):
            return None
        if not all(isinstance(size, int) for size in value.shape):
            return None
        return torch.zeros(value.shape, dtype=value.dtype)
    given = set(node.all_input_nodes)
    if not is_pointwise(node) or given.isdisjoint(values) or not given <= {*values, *numbers}:
        return None
    return call(node, *fx.map_arg((node.args, node.kwargs), lambda n: {**numbers, **values}[n]))


def _normalising(
    exit: fx.Node, numbers: Leaves, leaves: Leaves, stretch: Mapping[fx.Node, int]
) -> Iterator[Cone]:
    """Yield the cones that end in a node and hold a reduction."""
    for cone in cones(exit, {**numbers, **leaves}, _is_part):
        reduces = any(op(node) in REDUCTIONS for node in cone.nodes)
        if reduces and _is_undisturbed(cone, stretch):
            yield Cone(cone.source, cone.nodes, numbers)


def _is_undisturbed(cone: Cone, stretch: Mapping[fx.Node, int]) -> bool:
    """Whether nothing is overwritten between first and last but what the cone itself has made."""
    writers = [node for node in cone.nodes if overwrites(node)]
    last, inside = cone.exit, set(cone.nodes)
    own = 2 * len(writers) - overwrites(last)  # each begins a stretch, and ends it
    return stretch[last] - stretch[cone.nodes[0]] == own and all(
        node.args[0] in inside and _is_new(node.args[0]) for node in writers
    )


def _is_new(node: fx.Node) -> bool:
    made = op(node) in ("mean", "sum", "var", "std") or (is_pointwise(node) and not is_cast(node))
    return made and len(readers(node)) == 1


def _is_part(node: fx.Node) -> bool:
    if op(node) == "getitem":
        return isinstance(node.args[0], fx.Node) and op(node.args[0]) == "var_mean"
    return op(node) in REDUCTIONS or is_pointwise(node)


def _identified(cone: Cone, leaves: Leaves) -> Idiom | None:
    inputs = {given for node in cone.nodes for given in node.all_input_nodes}
    own = {node: leaf for node, leaf in leaves.items() if node in inputs}
    widths = {len(leaf) for leaf in own.values()}
    if len(own) > 2 or len(widths) > 1:
        return None
    shape = shape_of(cone.source)
    last = shape[-1] if shape and isinstance(shape[-1], int) else None
    width = next(iter(widths), last)
    ranks = (2, 3) if shape is None else (len(shape),)
    samples = [_sample(rank, width or WIDTH) for rank in ranks if rank > 1]
    weights = dict(zip(own, _weights(width or WIDTH), strict=False))
    found = [_evaluated(_function(cone, weights), x, weights) for x in samples]
    if not found or None in found:
        return None
    for kind, weight, bias, eps in _candidates(cone, list(own)):
        norm = _torchs(kind, weights.get(weight), weights.get(bias), eps)
        if all(
            _agree(f, _evaluated(norm, x, weights)) for f, x in zip(found, samples, strict=True)
        ):
            return Idiom(cone, kind, weight, bias, eps, width, own)
    return None


def _sample(rank: int, width: int) -> torch.Tensor:
    """Return rows that are a millionth, and up to a hundred, in size."""
    drawn = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0)).double() + 0.7
    rows = drawn * torch.logspace(-6, 2, ROWS, dtype=torch.float64)[:, None]
    return rows.view(*[1] * (rank - 2), ROWS, width).requires_grad_()


def _weights(width: int) -> list[torch.Tensor]:
    straight = torch.linspace(-1, 2, width, dtype=torch.float64)
    return [straight.requires_grad_(), straight.detach().flip(0).square().requires_grad_()]


def _function(cone: Cone, weights: Leaves) -> Function:
    return lambda x: Cone(cone.source, cone.nodes, {**cone.constants, **weights}).run(
        x, casts=False
    )


def _torchs(
    kind: str, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> Function:
    if kind == "layer_norm":
        return lambda x: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return lambda x: F.rms_norm(x, x.shape[-1:], weight, eps)


def _evaluated(function: Function, x: torch.Tensor, weights: Leaves) -> list[torch.Tensor] | None:
    """Return a function's value and its gradients; None where it is no such function."""
    y = function(x)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.requires_grad:
        return None
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).cos().view_as(y)
    gradients = torch.autograd.grad(y, (x, *weights.values()), slope, allow_unused=True)
    return None if None in gradients else [y.detach(), *gradients]


def _candidates(
    cone: Cone, own: list[fx.Node]
) -> Iterator[tuple[str, fx.Node | None, fx.Node | None, float]]:
    """Yield kinds, weights, biases and eps to try."""
    numbers = [number for number in cone.numbers() if 0 < number < 1]
    given = [*own, *[None] * (2 - len(own))]
    for (weight, bias), eps in itertools.product(itertools.permutations(given), [*numbers, 0.0]):
        yield "layer_norm", weight, bias, eps
        if bias is None:
            yield "rms_norm", weight, None, eps


def _agree(found: list[torch.Tensor], wanted: list[torch.Tensor] | None) -> bool:
    if wanted is None:
        return False
    pairs = zip(found, wanted, strict=True)
    return all(
        bool(((a - b).abs() <= TOLERANCE * b.abs().amax(-1, keepdim=True)).all()) for a, b in pairs
    )


def _said(strange: Mapping[fx.Node, Cone], taken: set[fx.Node]) -> Iterator[str]:
    """Yield what normalises rows in a way of its own: their size makes no difference."""
    said: set[fx.Node] = set()
    for exit, cone in strange.items():
        if taken.isdisjoint(cone.nodes) and said.isdisjoint(cone.nodes) and _is_invariant(cone):
            said.update(cone.nodes)
            yield f"{exit.name}: {INVARIANT}"


def _with_ones(cone: Cone, leaves: Leaves) -> Cone:
    ones = {node: torch.ones(len(leaf), dtype=torch.float64) for node, leaf in leaves.items()}
    return Cone(cone.source, cone.nodes, {**cone.constants, **ones})


def _is_invariant(cone: Cone) -> bool:
    inputs = {given for node in cone.nodes for given in node.all_input_nodes}
    widths = [len(v) for n, v in cone.constants.items() if n in inputs and v.dim()]
    shape = shape_of(cone.source)
    x = _sample(len(shape) if shape else 2, (*widths, WIDTH)[0]).detach()[..., 6:, :]
    small, large = (cone.run(value, casts=False) for value in (x, x * 1000))
    if small is None or large is None or small.shape != x.shape:
        return False
    return torch.allclose(small, large, rtol=1e-3) and bool(small.std() > 0)
