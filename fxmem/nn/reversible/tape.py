"""The state of one pass through a chain, while it travels."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from . import checks
from .arithmetic import Arithmetic, carried
from .couplings import Coupling, Streams
from .ends import Ends

Tensor = torch.Tensor


class Tape:
    """One forward of a chain and its backwards: `open`, the steps in turn, `close`.

    Args:
        arithmetic: how states are held.
        memory: "reversible" keeps the last state, "checkpoint" what enters each step, "none" all
            that autograd saves. Under torch.compile, and without gradients, it is as "none": there
            the graph decides what is kept, here nothing is.
    """

    def __init__(self, arithmetic: Arithmetic, memory: str) -> None:
        self.arithmetic = arithmetic
        self.keeps_inputs = memory == "checkpoint"
        compiling = torch.compiler.is_compiling()
        self.plain = memory == "none" or compiling or not torch.is_grad_enabled()
        self.state: Any = None
        self.names: list[str] = []
        self._position = 0

    def open(self, a: Tensor, b: Tensor) -> Streams:
        """Return the streams that the first step reads."""
        if self.arithmetic.is_streams:
            return a, b
        self.state = self.arithmetic.enter(a.detach(), b.detach())
        return carried((a, b), self.arithmetic.values(self.state))

    def enter(self, label: str) -> int:
        """Note the next step; return how many were before it."""
        self.names.append(label)
        return len(self.names) - 1

    def state_for(self, a: Tensor, b: Tensor) -> Any:
        """Return the state at the beginning of a step that is called with these streams."""
        return self.arithmetic.enter(a, b) if self.arithmetic.is_streams else self.state

    def carried(self, coupling: Coupling, after: Streams, f: Tensor) -> Streams:
        """Return the streams after a step of which everything is kept."""
        if self.arithmetic.is_streams:
            return after
        self.state = self.arithmetic.forgotten(
            self.arithmetic.step(self.state, coupling, f.detach())
        )
        return carried(after, self.arithmetic.values(self.state))

    def close(self, ends: Ends, a: Tensor, b: Tensor) -> Tensor:
        """Return the output of the chain; what its backward begins with is kept."""
        if self.plain or self.keeps_inputs:
            self.arithmetic.check(self.state, self.names)
            self.state = None
            return ends.join(a, b)
        return _Close.apply(self, ends, a, b)

    def take(self, position: int) -> Any:
        """Return the state after a step, in the backward."""
        if self._position != position + 1:
            raise RuntimeError(
                f"the backward comes to {self.names[position]} without what follows it in its "
                "reversible chain: a loss of what lies within the chain alone "
                "(output_hidden_states=True, an auxiliary loss) leaves out the end, from which the "
                "states come back; add the model's output to it, if only times zero, or use "
                "memory='checkpoint'"
            )
        return self.state

    def put(self, state: Any, position: int) -> None:
        """Leave the state before a step; nobody takes that before the first."""
        self.state, self._position = (state if position else None), position

    def rewind(self, state: Any) -> None:
        """Begin a backward at the end of the chain."""
        self.state, self._position = state, len(self.names)


class _Close(torch.autograd.Function):
    """The end of a chain for autograd: it keeps the last state, in the output where that is it."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, ends: Ends, a: Tensor, b: Tensor) -> Tensor:
        ctx.tape, ctx.ends, ctx.spec = tape, ends, None
        out = ends.join(a, b)
        state = tape.arithmetic.check(tape.state_for(a, b), tape.names)
        if tape.arithmetic.is_streams and ends.whole:
            ctx.save_for_backward(out)
        else:
            leaves, ctx.spec = tree_flatten(tape.arithmetic.kept(state))
            ctx.others = [None if isinstance(x, Tensor) else x for x in leaves]
            ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in leaves))
        tape.state = None
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        checks.refuse_second_order()
        tape, saved = ctx.tape, ctx.saved_tensors
        if ctx.spec is None:
            tape.rewind(tape.arithmetic.enter(*ctx.ends.split(saved[0].detach())))
        else:
            leaves = [o if t is None else t for o, t in zip(ctx.others, saved, strict=True)]
            tape.rewind(tape.arithmetic.restored(tree_unflatten(leaves, ctx.spec)))
        return None, None, *ctx.ends.gradients(g)
