"""One operation that carries a state on, and how it is undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx

from fxmem.passes.emit import Emit

Operand = fx.Node | float
Of = Callable[[Operand], Operand]  # what stands for a node of the forward
# Computes the state before from the one after, or the other way round: how to emit a node, that
# value, and what stands for a node of the forward.
Undo = Callable[[Emit, fx.Node, Of], fx.Node]
# A scale of which nothing is known. It counts as nearly zero: the state behind it is kept.
UNKNOWN = 2.0**-1000


@dataclass(frozen=True)
class Step:
    """`out` is computed from `state` and `others`, so that `state` follows from `out` and them.

    `redo` computes `out` from another value of the state, where that is not `out` with its
    arguments replaced.
    """

    out: fx.Node
    state: fx.Node
    others: tuple[Operand, ...]
    undo: Undo = field(compare=False)
    scale: Operand = 1.0
    redo: Undo | None = field(default=None, compare=False)
    # What stands between the state and `out`, and reads nothing else that is computed.
    within: frozenset[fx.Node] = frozenset()
    # What `out` is computed from: it may read what stands for the state by the time it is again.
    args: tuple = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", self.out.args)

    @property
    def sides(self) -> list[fx.Node]:
        """What the state is combined with, numbers left out."""
        return [other for other in self.others if isinstance(other, fx.Node)]

    def again(self, emit: Emit, state: fx.Node, of: Of) -> fx.Node:
        """Compute `out` of another value of the state."""
        if self.redo is not None:
            return self.redo(emit, state, of)
        args = [state if argument is self.state else of(argument) for argument in self.args]
        return emit(self.out.target, *args, **self.out.kwargs)
