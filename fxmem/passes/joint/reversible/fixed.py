"""The states of chains as integers: n_k = n_{k-2} + round(F(s_{k-1}) / q), s = n * q.

Integers are subtracted as exactly as they were added, and multiplied by a fraction so that it is
undone, so that every state comes back bit for bit, at every depth. (MacKay et al., Reversible
Recurrent Neural Networks, 2018; momentum: Sander et al., Momentum Residual Networks, 2021.)
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import fx
from torch._inductor.pattern_matcher import stable_topological_sort

from fxmem.passes.emit import emit
from fxmem.passes.graph import ancestors, aten, tensor
from fxmem.passes.joint.reversible.chains import Chain, Link
from fxmem.passes.joint.reversible.couplings import alpha_of
from fxmem.passes.joint.reversible.layouts import laid_out
from fxmem.passes.joint.reversible.recomputable import cone
from fxmem.passes.joint.reversible.streams import Shrinking, Stream, factor
from fxmem.passes.operators import CAST

prims = torch.ops.prims
# Of 31 bits so many are for the largest element of the first states; ten let the others grow.
BITS = 20
SMALLEST = 2.0**-60  # of what that element is taken for: states may be zero
LARGEST = 2.0**30
REFUSAL = (
    "reversible, exact: a chain keeps its floating-point states, for it does more than add to "
    "them, or multiply them by one number near a fraction up to 1 with a denominator up to 1024"
)
NOTE = (
    "reversible, exact: states are integers; one beyond about a thousand times the largest element "
    "of the first two makes the last states and all gradients NaN"
)
ADDED = (aten.add.Tensor, aten.sub.Tensor)


def fix(
    graph: fx.Graph, forward: Callable[[], dict[fx.Node, None]], find: Callable[[], list[Chain]]
) -> tuple[dict[fx.Node, fx.Node], list[Chain], list[str]]:
    """Turn the states of chains of a joint graph into integers, where sums make them.

    A state too large for its integers turns the last states, and all gradients, into NaN.

    Args:
        forward: what the forward computes now, in order.
        find: the chains that it has now: one may begin with what another ends with.

    Returns: what the backward is to read in place of the forward's own, the chains that there are
    then, and the refusals.
    """
    checked: dict[fx.Node, fx.Node] = {}
    while chain := next(filter(_fits, chains := find()), None):
        checked |= _Fixed(graph, forward(), chain).rewrite()
        stable_topological_sort(graph)
    graph.lint()
    return checked, chains, [REFUSAL for chain in chains if _has_floats(chain)]


def _has_floats(chain: Chain) -> bool:
    state = tensor(chain[0].out)
    empty = any(isinstance(size, int) and size == 0 for size in state.shape)
    return state.is_floating_point() and not empty


def _fits(chain: Chain) -> bool:
    adds = _has_floats(chain) and all(map(_adds, chain))
    return adds and all(map(_scales_alike, (chain[::2], chain[1::2])))


def _adds(link: Link) -> bool:
    (*before, step) = link.steps
    adds = step.out.target in ADDED and step.scale == 1 and step.redo is None
    adds = adds and isinstance(alpha_of(step.out), int | float)
    return adds and len(before) <= 1 and all(map(factor, before))


def _scales_alike(links: Chain) -> bool:
    """Whether those links of a stream that scale it all do so by one number."""
    return len(_factors(links)) <= 1


def _factors(links: Chain) -> set[Fraction]:
    return {factor(step) for link in links for step in link.steps[:-1]}


class _Fixed:
    """Rewrites one chain.

    `quantum` and 1 / quantum, `grid`, are scalars; so is `peak`, the largest integer met.
    """

    def __init__(self, graph: fx.Graph, forward: dict[fx.Node, None], chain: Chain) -> None:
        self.graph, self.forward, self.chain = graph, forward, chain
        self.precise = torch.float32
        for link in chain[:2]:
            self.precise = torch.promote_types(self.precise, tensor(link.out).dtype)
        first, second = self._stream(chain[::2]), self._stream(chain[1::2])
        self.streams = {chain[0].skip: first, chain[0].stream: second}
        for link in chain:
            self.streams[link.out] = self.streams[link.skip]

    def _stream(self, links: Chain) -> Stream:
        for by in _factors(links):
            return Shrinking(self._emit, links[0].out, by)
        return Stream(self._emit)

    def rewrite(self) -> dict[fx.Node, fx.Node]:
        """Return the quantum, and what is NaN in place of it if a state was too large."""
        within = set(cone(self.chain[-1]))
        places = [link.out.args.index(link.steps[-1].state) for link in self.chain]
        integers = self._enter(self.chain[0].skip, self.chain[0].stream)
        values = []
        for link, place in zip(self.chain, places, strict=True):
            stream = self.streams[link.out]
            with self.graph.inserting_before(link.out):
                state = integers[link.skip]
                state = stream.multiplied(state) if link.steps[:-1] else state
                integers[link.out] = self._added(link.out, place, state, stream)
                values.append(self._value(link.out, integers[link.out], stream))
            link.out.replace_all_uses_with(values[-1])
        with self.graph.inserting_before(values[-1].next):
            return self._check(values[-2:], within)

    def _emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return emit(self.graph, target, *args, like=self.chain[0].out, **kwargs)

    def _cast(self, value: fx.Node, dtype: torch.dtype) -> fx.Node:
        same = tensor(value).dtype == dtype
        return value if same else self._emit(CAST, value, dtype)

    def _enter(self, *states: fx.Node) -> dict[fx.Node, fx.Node]:
        """Round the first states to the grid; return their integers."""
        inputs = self.graph.find_nodes(op="placeholder")
        before = set(ancestors(states, lambda n: False))
        before |= set(self.graph.find_nodes(op="call_function", target=aten.copy_.default))
        readers = {state: [u for u in state.users if u not in before] for state in states}
        with self.graph.inserting_before(max(*states, inputs[-1]).next):
            precise = [self._cast(state, self.precise) for state in states]
            self._choose(precise)
            streams = [self.streams[state] for state in states]
            integers = dict(zip(states, map(self._rounded, precise, streams), strict=True))
            values = {s: self._value(s, integers[s], self.streams[s]) for s in states}
        for state, users in readers.items():
            for user in users:
                user.replace_input_with(state, values[state])
        return integers

    def _choose(self, states: list[fx.Node]) -> None:
        """Choose the quantum: a power of two, as the largest element of the first states asks."""
        top = self._emit(aten.maximum.default, *map(self._largest, states))
        top = self._emit(aten.clamp_min.default, top, SMALLEST)
        exponent = self._emit(aten.ceil.default, self._emit(aten.log2.default, top))
        shift = self._emit(aten.sub.Tensor, exponent, BITS)
        self.quantum = self._emit(aten.exp2.default, shift)
        self.grid = self._emit(aten.reciprocal.default, self.quantum)
        self.peak = self._emit(aten.mul.Tensor, top, self.grid)

    def _largest(self, value: fx.Node) -> fx.Node:
        return self._emit(aten.amax.default, self._emit(aten.abs.default, value))

    def _times(self, value: fx.Node, scale: float) -> fx.Node:
        return value if scale == 1 else self._emit(aten.mul.Tensor, value, scale)

    def _rounded(self, value: fx.Node, stream: Stream) -> fx.Node:
        scaled = self._times(self._emit(aten.mul.Tensor, value, self.grid), stream.finer)
        rounded = self._emit(aten.round.default, scaled)
        self._meet(rounded, stream)
        return stream.held(rounded)

    def _meet(self, whole: fx.Node, stream: Stream) -> None:
        largest = self._times(self._largest(whole), 1 / stream.finer)
        self.peak = self._emit(aten.maximum.default, self.peak, largest)

    def _value(self, state: fx.Node, integer: fx.Node, stream: Stream) -> fx.Node:
        """Return what a state's integers stand for, in its dtype and memory order."""
        precise = self._times(self._cast(stream.shaped(integer), self.precise), 1 / stream.finer)
        value = self._emit(aten.mul.Tensor, precise, self.quantum)
        return laid_out(self._cast(value, tensor(state).dtype), state, self._emit)

    def _added(self, out: fx.Node, place: int, state: fx.Node, stream: Stream) -> fx.Node:
        """Add a branch to a state's integers, as `out` does to the state at `place`."""
        branch = self._times(self._cast(out.args[1 - place], self.precise), alpha_of(out))
        branch = self._rounded(branch, stream)
        operands = (branch, state) if place else (state, branch)
        added = self._emit(out.target, *operands)
        self._meet(self._cast(added, self.precise), stream)
        return added

    def _check(self, last: list[fx.Node], within: set[fx.Node]) -> dict[fx.Node, fx.Node]:
        fits = self._emit(aten.lt.Scalar, self.peak, LARGEST)  # false for NaN
        checked = [self._or_nan(fits, value) for value in (*last, self.quantum)]
        for value, safe in zip(last, checked, strict=False):
            for user in list(value.users):
                if (user in self.forward and user not in within) or user.op == "output":
                    user.replace_input_with(value, safe)
        return {self.quantum: checked[-1]}

    def _or_nan(self, fits: fx.Node, value: fx.Node) -> fx.Node:
        fake = tensor(value)
        nan = self._emit(aten.full.default, [], float("nan"), dtype=fake.dtype, device=fake.device)
        return self._emit(aten.where.self, fits, value, nan)
