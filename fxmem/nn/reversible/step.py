"""One step of a reversible chain: computed forward, undone and computed again in the backward.

Nothing is saved between the two. The state of a chain travels on its tape: forward through the
steps, where it is kept once at the end; and back, where each step finds there the state after it
and leaves the state before it. Autograd runs the steps in the right order, for each takes what the
next one gives. Gomez et al. 2017, The Reversible Residual Network, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from . import checks, repeats
from .block import Block
from .call import Call, layout, like
from .couplings import Coupling, Streams
from .surroundings import unhooked
from .tape import Tape

Tensor = torch.Tensor


class Step(torch.nn.Module):
    """A block with its coupling, as a module: (tape, a, b) to the next (a, b).

    What shards or wraps modules (FSDP2, hooks) does so with a step, not with the block inside: all
    that the backward computes belongs to the step's call.
    """

    def __init__(
        self,
        block: Any,
        coupling: Coupling,
        label: str,
        target_device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.block, self.coupling, self.label = block, coupling, label
        self.target_device = target_device
        self._checked = self._repeated = False

    def forward(
        self,
        tape: Tape,
        a: Tensor,
        b: Tensor,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Streams:
        """Return the streams after the step; `args` and `kwargs` go to the block after b."""
        kwargs = kwargs or {}
        position = tape.enter(self.label)
        block = Block(self.block, self.label, self.target_device)
        if tape.plain:
            return self._plain(tape, block, a, b, args, kwargs)
        checks.check_not_transformed(self.label)
        checks.check_not_sharded(self.label, self.block)
        flat, spec = tree_flatten((args, kwargs))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        others = [None if isinstance(x, Tensor) else x for x in flat]
        where = [i for i, x in enumerate(flat) if isinstance(x, Tensor)]
        parameters = block.parameters()
        checks.check_initialized(self.label, parameters.values())
        call = Call(self, tape, block, position, spec, others, where, parameters)
        return StepFunction.apply(call, a, b, *tensors, *call.learned(parameters))

    def _plain(
        self, tape: Tape, block: Block, a: Tensor, b: Tensor, args: tuple, kwargs: dict[str, Any]
    ) -> Streams:
        args, kwargs = tree_map(_alias, (args, kwargs))
        f = block(b, args, kwargs)
        after = self.joined(a, b, f)
        return tape.carried(self.coupling, after, f)

    def joined(self, a: Tensor, b: Tensor, f: Tensor) -> Streams:
        """Return the streams after the step; differentiable."""
        parts = self.label, self.coupling, (a, b), f
        after = checks.joined(*parts, lambda: self.coupling.forward(a, b, f))
        checks.check_shapes(*parts, after)
        return after

    def done(self, tape: Tape, a: Tensor, b: Tensor, f: Tensor) -> Any:
        """Return the state after the step."""
        state, held = tape.state_for(a, b), tape.arithmetic
        parts = self.label, self.coupling, (a, b), f
        after = checks.joined(*parts, lambda: held.step(state, self.coupling, f))
        return held.forgotten(after) if tape.keeps_inputs else after


class StepFunction(torch.autograd.Function):
    """A step for autograd; its inputs are the streams and whatever else the block's gradient has.

    The forward runs the block with gradients on: the same kernels are chosen as when it is computed
    again, so that what is subtracted is what was added. Nothing of the graph is kept here. What the
    block itself leaves behind (an auxiliary loss, router logits) keeps its part, which begins at
    the streams as they are in the graph outside: its gradient goes on from there.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, a: Tensor, b: Tensor, *rest: Tensor) -> Streams:
        ctx.call = call
        ctx.set_materialize_grads(False)
        tape, step = call.tape, call.step
        own = rest[: len(call.where)]
        call.layouts = [layout(a), layout(b)]
        with torch.enable_grad(), unhooked():
            first, source, *tensors = map(_alias, (a, b, *own))
            f = call.first(source, tensors)
            call.examine(first, source, tensors, f, any(ctx.needs_input_grad))
        f = f.detach()
        # Without their past: a state that leads to this node, which holds the tape, would never be
        # freed if a later block raises.
        tape.state = step.done(tape, a.detach(), b.detach(), f)
        after = tape.arithmetic.values(tape.state)
        checks.check_shapes(step.label, step.coupling, (a, b), f, after)
        ctx.save_for_backward(*own, *((a, b) if tape.keeps_inputs else ()))
        return after[0].detach(), after[1].detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        checks.refuse_second_order()
        call, needs = ctx.call, ctx.needs_input_grad[1:]
        checks.check_unchanged(call.step.label, call.parameters.values(), call.versions)
        own = ctx.saved_tensors[: len(call.where)]
        tensors, parameters = _leaves(own, needs[2:]), call.differentiated()
        again = partial(call.again, tensors=tensors, parameters=parameters)
        with call.surroundings.again():
            first, source, f = _recomputed(call, again, ctx.saved_tensors[len(own) :], needs)
            call.check_repeated(source, f)
            with torch.enable_grad():
                after = call.step.coupling.forward(first, source, f)
            leaves = (first, source, *tensors)
            call.check_captured(after, (*leaves, *parameters.values()))
            found = _gradients(after, grads, (*leaves, *call.learned(parameters)), needs)
        repeats.close(call.step.label, leaves)
        return None, *found


def _recomputed(
    call: Call,
    again: Callable[[Tensor], Tensor],
    kept: tuple[Tensor, ...],
    needs: tuple[bool, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the streams before the step as leaves, and the block's output with its graph."""
    arithmetic, coupling = call.tape.arithmetic, call.step.coupling
    state = None if kept else call.tape.take(call.position)
    read = kept[1] if kept else arithmetic.source(state, coupling)
    (source,) = _leaves([like(read, call.layouts[1])], needs[1:])
    with torch.enable_grad():
        f = again(source)
    if not kept:
        before = arithmetic.back(state, coupling, source.detach(), f.detach())
        call.tape.put(before, call.position)
        kept = arithmetic.values(before)
    (first,) = _leaves([like(kept[0], call.layouts[0])], needs)
    return first, source, f


def _gradients(
    outputs: Streams,
    grads: tuple[Tensor | None, ...],
    inputs: tuple[Tensor, ...],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return a gradient, or None, for each input."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
    pairs = [(o, g) for o, g in pairs if o.requires_grad]
    wanted = [x for x, need in zip(inputs, needs, strict=True) if need]
    if not pairs or not wanted:
        return [None] * len(inputs)
    outs, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outs, wanted, given, allow_unused=True))
    return [next(found) if need else None for need in needs]


def _leaves(tensors: Any, needs: Any) -> list[Tensor]:
    """Return the tensors without their past, as leaves of a graph where a gradient is needed."""
    return [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=False)]


def _alias(x: Any) -> Any:
    """Return a view of a tensor that needs a gradient: see `Block.__call__`."""
    return x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x
