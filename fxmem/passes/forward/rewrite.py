"""Plan, then apply: every activation of a graph goes to the first rule that takes it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from fxmem.compat import hint
from fxmem.passes.forward.activations import Activation, find
from fxmem.passes.forward.differentiated import differentiated
from fxmem.passes.forward.eager import kept, plainly
from fxmem.passes.forward.effects import spans
from fxmem.passes.forward.nested import called
from fxmem.passes.forward.rule import Match, Place, Rule
from fxmem.passes.forward.traced import dtype_of, shape_of
from fxmem.passes.forward.uses import differentiable, keeper
from fxmem.passes.graph import module_path
from fxmem.plan import Plan, Refusal, Residual, Site
from fxmem.policy import Policy

Answer = tuple[Rule | None, Match | str]
UNSIZED = "no tracer has noted shapes, so only bits an element are known, not bytes"


def rewrite(gm: fx.GraphModule, rules: Sequence[Rule], policy: Policy) -> list[Plan]:
    """Let the rules, in order, rewrite the activations of a graph and of those that it calls.

    Returns: what was decided, one plan a graph, the caller's first.
    """
    inner = (rewrite(gm.get_submodule(name), rules, policy) for name in called(gm))
    return [_rewrite(gm, rules, policy), *itertools.chain.from_iterable(inner)]


def _rewrite(gm: fx.GraphModule, rules: Sequence[Rule], policy: Policy) -> Plan:
    with plainly():
        found, notes = find(gm.graph)
        places = list(_places(gm.graph, found))
    answers = list(_decide(places, rules, policy))
    entries = tuple(_entry(*pair) for pair in zip(places, answers, strict=True))
    # From the last to the first: what an activation reads may be one that is replaced later.
    for place, (rule, answer) in reversed(list(zip(places, answers, strict=True))):
        if isinstance(answer, Match):
            rule.apply(gm.graph, place, answer)
    gm.graph.lint()
    gm.recompile()
    unsized = any("?" in entry.residual.shape for entry in entries)
    return Plan(entries, (*notes, UNSIZED) if unsized else tuple(notes))


def _places(graph: fx.Graph, found: Sequence[Activation]) -> Iterator[Place]:
    wanted, stretch = frozenset(differentiable(graph)), spans(graph)
    otherwise = differentiated(graph)
    for activation in found:
        cone = activation.cone
        dtype = dtype_of(cone.source) or torch.float32
        yield Place(
            activation,
            dtype,
            kept(cone, dtype),
            wanted,
            keeper(cone.source, wanted, but=frozenset(cone.nodes)),
            keeper(cone.exit, wanted),
            stretch,
            otherwise,
        )


def _decide(places: Sequence[Place], rules: Sequence[Rule], policy: Policy) -> Iterator[Answer]:
    taken: set[fx.Node] = set()
    for place in places:
        rule, answer = _ask(place, rules, policy, taken)
        if isinstance(answer, Match) and answer.reader is not None:
            taken.add(answer.reader)
        yield rule, answer


def _ask(place: Place, rules: Sequence[Rule], policy: Policy, taken: set[fx.Node]) -> Answer:
    """Return the first match whose reader no other activation has taken, else why there is none."""
    if place.activation.cone.source not in place.wanted:
        return None, "nothing that it reads wants a gradient"
    if place.activation.cone.exit in place.otherwise:
        return None, place.otherwise[place.activation.cone.exit]
    refusal: Answer = None, "no rule is on"
    for rule in rules:
        answer = rule.match(place, policy)
        if isinstance(answer, Match):
            answer = place.otherwise.get(answer.reader, answer)
        if isinstance(answer, Match) and answer.reader not in taken:
            return rule, answer
        refusal = (rule, answer) if isinstance(answer, str) else refusal
    return refusal


def _entry(place: Place, answer: Answer) -> Site | Refusal:
    rule, match = answer
    name = rule.name if rule else ""
    if isinstance(match, str):
        return Refusal(_residual(place, place.bits), name, match)
    action = f"{match.action}: {match.before:g} -> {match.after:g} bits an element"
    after = _nbytes(place, match.after)
    return Site(_residual(place, match.before), name, action, after, match.guarantee)


def _residual(place: Place, bits: float) -> Residual:
    exit = place.activation.cone.exit
    shape = shape_of(exit) or ("?",)
    sizes = tuple(s if isinstance(s, (int, str)) else str(s) for s in shape)
    dtype = str(place.dtype).removeprefix("torch.")
    name = place.activation.name
    return Residual(exit.name, module_path(exit), name, sizes, dtype, _nbytes(place, bits))


def _nbytes(place: Place, bits: float) -> int:
    sizes = [hint(size) or 0 for size in shape_of(place.activation.cone.exit) or (0,)]
    return math.ceil(math.prod(sizes) * bits / 8)
