"""A value kept only for an activation's derivative is kept as that derivative's few-bit code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from fxmem import ops
from fxmem.passes.emit import Sizes, emit
from fxmem.passes.graph import aten, numel, tensor
from fxmem.passes.operators import CAST
from fxmem.passes.pair.allocate import allocate
from fxmem.passes.pair.cones import Cone, Cones, Exit
from fxmem.passes.pair.curves import Curve, NoCode, curve
from fxmem.passes.pair.eligible import why_exact
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.rewrite import dense_strides, substitute
from fxmem.passes.pair.steps import Steps, nearest
from fxmem.passes.rule import Match
from fxmem.plan import Refusal, Site
from fxmem.policy import Policy

BITS = 3
# A code's levels are for inputs of standard deviation 1, an encoding's scales for what comes. At 4
# the gradient of a SiLU's code is 5.3, 6.1 and 3.5 % off in 4, 5 and 8 bits, encoded 10.4, 5.1, .7.
MOST_BITS = 4
LOSS = "a loss is made of it: near the least of it nothing would be left of the gradient"
VANISHES = "its function goes to 0 with it: of small values nothing would be left of the gradient"
# Of a softplus behind a bias of -2, -4 or -6 the gradient is 48, 271 and 2052 % off by 3-bit codes,
# encoded 1.3, 1.5 and 1.6 %.
FADES = "its function fades on a side, where a gate may be: nothing would be left of the gradient"


@dataclass(frozen=True)
class Recipe:
    """Which function of which value is kept, its steps in so many bits, and how it is multiplied.

    `first` tells for each exit whether the function or the gradient is the first operand, which
    decides how their product lies in memory.
    """

    cone: Cone
    steps: Steps
    bits: int
    first: tuple[bool, ...]


class FewBit:
    """float[n] -> uint8[ceil(bits * n / 8)]; the backward reads the level of each code."""

    name = "few_bit"

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Match floats that are read for one function of them alone, a weight of gradients."""
        answers: dict[Storage, Match | Refusal | None] = {}
        pays = policy.preset == "compact" and (policy.bits or BITS) <= MOST_BITS
        if policy.asks(self.name) or (pays and policy.allows(self.name)):
            cones = Cones(pair)
            # A value comes before what is made of it: sign(x) needs no code of its own beside x's.
            for storage in sorted(storages, key=lambda s: s.owner):
                if storage not in answers:
                    answers |= _answers(pair, storage, storages, cones, policy)
        return [answers.get(storage) for storage in storages]

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Classify after the root, look up before the first use, weigh each exit with that."""
        if match.recipe is None:
            return
        cone, steps, bits = match.recipe.cone, match.recipe.steps, match.recipe.bits
        found: list[fx.Node] = []

        def classify(graph: fx.Graph, x: fx.Node) -> list[fx.Node]:
            arguments = (x, list(steps.borders), bits, steps.even)
            code = emit(graph, torch.ops.fxmem.classify.default, *arguments, like=cone.root)
            code._rename(f"{cone.root.name}_code")
            return [code]

        def lookup(graph: fx.Graph, kept: list[fx.Node], sizes: Sizes, strides: Sizes) -> fx.Node:
            dtype = tensor(cone.exits[0].node).dtype
            arguments = (kept[0], list(steps.levels), bits, sizes, strides, dtype)
            found.append(emit(graph, torch.ops.fxmem.lookup.default, *arguments, like=cone.root))
            return found[0]

        substitute(pair, cone.root, storage.views, classify, lookup)
        for exit, first in zip(cone.exits, match.recipe.first, strict=True):
            _weigh(pair.backward.graph, exit, found[0], first)


def _answers(
    pair: Pair, storage: Storage, storages: Sequence[Storage], cones: Cones, policy: Policy
) -> dict[Storage, Match | Refusal | None]:
    """Return what is done with a storage, and with those that are not needed beside its code."""
    refusal = None
    for cone in cones.of(storage) if tensor(storage.owner).is_floating_point() else ():
        try:
            match = _match(pair, storage, cones, cone, policy) if cone.weighs else None
        except NoCode as why:
            refusal = refusal or Refusal(storage.record, FewBit.name, str(why))
        else:
            if match is not None:
                freed = [s for s in storages if s is not storage and _is_idle(pair, s, cone)]
                return {storage: match, **{s: _not_kept(s, cone.root) for s in freed}}
    return {storage: refusal}


def _is_idle(pair: Pair, storage: Storage, cone: Cone) -> bool:
    taken = {pair.taken(view.name) for view in storage.views}
    return any(n.users for n in taken) and cone.idle.issuperset(n for n in taken if n.users)


def _not_kept(storage: Storage, root: fx.Node) -> Match:
    action = f"not kept: the code of {root.name} serves"
    return Match(Site(storage.record, FewBit.name, action, 0, "bounded"), None)


def _match(pair: Pair, storage: Storage, cones: Cones, cone: Cone, policy: Policy) -> Match | None:
    if why := why_exact(pair, storage, policy) or _why_root(
        pair, replace(storage, owner=cone.root)
    ):
        raise NoCode(why)
    weight = curve(cone)
    if weight is None:
        return None
    # An activation's derivative weighs a gradient of its own size; a loss's is the gradient.
    arriving = cones.arriving(cone)
    if arriving == 1 or (arriving < numel(cone.root) and weight.vanishes):
        raise NoCode(LOSS)
    if why := None if policy.asks(FewBit.name) else _why_small(weight):
        raise NoCode(why)
    if not _is_idle(pair, storage, cone):
        raise NoCode("the backward reads more of it than its derivative: a code serves one")
    bits = policy.option(FewBit.name, "bits", policy.bits or BITS)
    kept = ops.packed_bytes(numel(cone.root), bits)
    if kept >= _encoded(pair, storage, policy):
        raise NoCode(f"a {bits}-bit code of a function of it would not be fewer bytes")
    steps = nearest(weight, bits)
    first = tuple(_weights_first(cone, exit) for exit in cone.exits)
    action = f"{bits}-bit code of {steps.of}, off by at most {steps.error:.2g} of its peak"
    site = Site(storage.record, FewBit.name, action, kept, "bounded")
    return Match(site, Recipe(cone, steps, bits, first))


def _why_small(weight: Curve) -> str | None:
    return VANISHES if weight.vanishes else FADES if weight.fades else None


def _why_root(pair: Pair, root: Storage) -> str | None:
    known = numel(root.owner) is not None and pair.knows_sizes(replace(root, views=()))
    return None if known else f"a size of {root.owner.name} is not known in the backward"


def _encoded(pair: Pair, storage: Storage, policy: Policy) -> int:
    """Return the bytes in which the storage would be kept without this rule."""
    if not policy.lossy:
        return storage.nbytes
    elements = [min(numel(storage.owner), sum(map(numel, storage.views)))]
    width = allocate(pair, {storage: elements}, policy)[storage]
    return min(width.bytes_of(elements), storage.nbytes)


def _weights_first(cone: Cone, exit: Exit) -> bool:
    """Return the order of operands in which the product lies in memory as the exit does."""
    value = tensor(cone.root)
    with detect_fake_mode([value]):
        strides, dtype = dense_strides(value), tensor(exit.node).dtype
        weights = value.new_empty_strided(value.shape, strides, dtype=dtype)
        for first in (False, True):
            product = _product(torch.mul, weights, [tensor(n) for n in exit.factors], first)
            # As text: to compare strides that are not known would add a guard.
            if str(product.stride()) == str(tensor(exit.node).stride()):
                return first
    raise NoCode("the product of a gradient and its code would lie otherwise in memory")


def _product(multiply: Callable, weights: Any, factors: Sequence[Any], first: bool) -> Any:
    for factor in factors:
        weights = multiply(weights, factor) if first else multiply(factor, weights)
    return weights


def _weigh(graph: fx.Graph, exit: Exit, weights: fx.Node, first: bool) -> None:
    """Make the exit the product of its factors and the weights.

    It stays the same node, for it may be a factor of another cone's exit.
    """
    node, dtype = exit.node, tensor(exit.node).dtype
    with graph.inserting_before(node):
        multiply = functools.partial(emit, graph, aten.mul.Tensor, like=node)
        product = _product(multiply, weights, exit.factors, first)
        if tensor(product).dtype != dtype:
            product = emit(graph, CAST, product, dtype, like=node)
    node.target, node.args, node.kwargs = product.target, product.args, product.kwargs
    graph.erase_node(product)
