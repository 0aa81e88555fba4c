"""Chains whose states are carried in a wider dtype, and rounded for whoever reads them.

A sum in bfloat16 forgets what its inverse needs: in eight links the gradient's error grew by a
fifth, and then a pair of states has to be kept every few links. Carried in float32 they come back
2^15 times closer (2^12 in float16), and none is kept in hundreds of links. Float32 keeps a pair in
every 33 links, and more where states may grow: where that is more than the last two are in float64,
they are carried in that. What the forward gives differs from sums in its
own dtype by their rounding, which it leaves out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor.pattern_matcher import stable_topological_sort

from fxmem.passes.graph import emit, tensor
from fxmem.passes.joint.reversible.anchors import WIDENED, anchors
from fxmem.passes.joint.reversible.chains import Chain
from fxmem.passes.joint.reversible.layouts import laid_out
from fxmem.passes.joint.reversible.steps import Operand, Step

WIDER = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float32: torch.float64,
}
prims = torch.ops.prims


def widen(graph: fx.Graph, chains: list[Chain]) -> bool:
    """Carry the states of chains in a wider dtype where that keeps hardly more.

    Returns: whether any were.
    """
    worthwhile = [chain for chain in chains if _keeps_little(chain)]
    rounded: dict[fx.Node, fx.Node] = {}
    for chain in worthwhile:
        _Widened(graph, chain, rounded).rewrite()
    if worthwhile:
        stable_topological_sort(graph)
        graph.lint()
    return bool(worthwhile)


def _keeps_little(chain: Chain) -> bool:
    """Compare what is kept: in half precision accuracy is worth twice the bytes of the last two."""
    state = tensor(chain[0].out)
    if state.dtype not in WIDER or state.device.type == "mps":  # which has no float64
        return False
    kept, wide = len(anchors(chain)), 2 * len(anchors(chain, widened=state.dtype))
    return wide + 2 < kept if state.dtype == torch.float32 else wide <= kept


class _Widened:
    """Rewrites one chain. `rounded`: what is read in place of states, of other chains too."""

    def __init__(self, graph: fx.Graph, chain: Chain, rounded: dict[fx.Node, fx.Node]) -> None:
        self.graph, self.chain, self.rounded = graph, chain, rounded
        self.dtype = tensor(chain[0].out).dtype
        self.wider = WIDER[self.dtype]
        self.wide: dict[fx.Node, fx.Node] = {}

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
        return self._emit(prims.convert_element_type.default, value, dtype)

    def _enter(self, state: fx.Node) -> None:
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
            self.rounded[state] = self._cast(self.wide[state], self.dtype)
        for user in users:
            user.replace_input_with(state, self.rounded[state])
