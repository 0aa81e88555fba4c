"""Chains whose states are carried in a wider dtype, and rounded for whoever reads them.

A sum forgets what its inverse needs. What a small state loses beside a large branch never comes
back: from states as small as embeddings a gradient in float32 is further off than with every state
kept, many times over, and in bfloat16 eight links cost a fifth. Carried in float32, states of half
precision come back 2^15 times closer (2^12 in float16), and those of float32 2^29 times in float64,
so that pairs of them need hardly ever be kept on the way. What the forward gives differs from sums
in its own dtype by their rounding, which it leaves out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor.pattern_matcher import stable_topological_sort
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.emit import emit
from fxmem.passes.graph import tensor
from fxmem.passes.joint.reversible.anchors import WIDENED, anchors
from fxmem.passes.joint.reversible.chains import Chain
from fxmem.passes.joint.reversible.layouts import laid_out
from fxmem.passes.joint.reversible.rewrite import store
from fxmem.passes.joint.reversible.steps import Operand, Step
from fxmem.passes.operators import CAST

HALVES = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
WIDER = {**HALVES, torch.float32: torch.float64}
prims = torch.ops.prims


def widen(graph: fx.Graph, chains: list[Chain], float64: bool = True) -> bool:
    """Carry the states of chains in a wider dtype where that keeps hardly more.

    Args:
        float64: carry those of float32, too.

    Returns: whether any were.
    """
    wider = WIDER if float64 else HALVES
    worthwhile = [chain for chain in chains if _keeps_little(chain, wider)]
    rounded: dict[fx.Node, fx.Node] = {}
    wide: dict[fx.Node, fx.Node] = {}
    for chain in worthwhile:
        _Widened(graph, chain, rounded, wide).rewrite()
    if worthwhile:
        stable_topological_sort(graph)
        graph.lint()
    return bool(worthwhile)


def _keeps_little(chain: Chain, wider: dict[torch.dtype, torch.dtype]) -> bool:
    """Compare what is kept on the way: accuracy is worth twice the bytes of the last two states."""
    state = tensor(chain[0].out)
    if state.dtype not in wider or state.device.type == "mps":  # which has no float64
        return False
    return 2 * len(anchors(chain, widened=state.dtype)) <= len(anchors(chain))


class _Widened:
    """Rewrites one chain.

    `wide`: what the states are carried as; `rounded`: what is read in their place. Both are of
    other chains, too: one may begin where another ends.
    """

    def __init__(
        self,
        graph: fx.Graph,
        chain: Chain,
        rounded: dict[fx.Node, fx.Node],
        wide: dict[fx.Node, fx.Node],
    ) -> None:
        self.graph, self.chain, self.rounded, self.wide = graph, chain, rounded, wide
        self.dtype = tensor(chain[0].out).dtype
        self.wider = WIDER[self.dtype]

    def rewrite(self) -> None:
        """Compute every state a second time, wider, and have that read, rounded."""
        first = self.chain[0]
        between = {step.out for link in self.chain for step in link.steps}
        # An input that is overwritten is so itself, not what stands for it.
        readers = [n for n in first.stream.users if n not in between and not n.is_impure()]
        self._enter(first.skip)
        self._enter(first.stream)
        self._read(first.stream, readers)
        for link in self.chain:
            for step in link.steps:
                self._step(step, between)

    def _emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = emit(self.graph, target, *args, like=self.chain[0].out, **kwargs)
        node.meta[WIDENED] = self.dtype
        return node

    def _cast(self, value: fx.Node, dtype: torch.dtype) -> fx.Node:
        return self._emit(CAST, value, dtype)

    def _enter(self, state: fx.Node) -> None:
        if state in self.wide:
            return
        inputs = self.graph.find_nodes(op="placeholder")
        with self.graph.inserting_before(max(state, inputs[-1]).next):
            self.wide[state] = self._cast(self.rounded.get(state, state), self.wider)

    def _of(self, operand: Operand) -> Operand:
        """Return what stands for an operand, wider: numbers, sizes and masks as they are."""
        if not isinstance(operand, fx.Node):
            return operand
        if operand in self.wide:
            return self.wide[operand]
        value = self.rounded.get(operand, operand)
        is_narrow = tensor(value) is not None and tensor(value).dtype == self.dtype
        return self._cast(value, self.wider) if is_narrow else value

    def _step(self, step: Step, between: set[fx.Node]) -> None:
        with self.graph.inserting_before(step.out):
            again = step.again(self._emit, self._of(step.state), self._of)
            self.wide[step.out] = laid_out(again, step.out, self._emit)
        self._read(step.out, [user for user in step.out.users if user not in between])

    def _read(self, state: fx.Node, users: list[fx.Node]) -> None:
        """Give these users of a state its wider value, rounded."""
        if not users:
            return
        with self.graph.inserting_before(self.wide[state].next):
            # Each pass over it would read twice the bytes, and round them again.
            self.rounded[state] = store(self._cast(self.wide[state], self.dtype))
        # Of the last two states the wider ones are kept, and nothing beside them.
        self.rounded[state].meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
        for user in users:
            user.replace_input_with(state, self.rounded[state])
