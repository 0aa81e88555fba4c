"""Two streams through layers that a model calls one by one, each with one tensor.

The model's own forward hands a hidden state from layer to layer. The layers stay where they are;
what each computes becomes a step of a chain, which hands on one stream that way and holds the other
meanwhile. So arguments may differ from layer to layer, hooks see what they saw, and the names of
parameters stay.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import checks
from .arithmetic import Arithmetic
from .couplings import Coupling
from .ends import Ends
from .step import Step
from .tape import Tape

Tensor = torch.Tensor


@dataclass(frozen=True)
class Passed:
    """An argument that a layer returns as it was given: where it stands among the arguments."""

    place: int | str

    def of(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return the argument in a call of the layer."""
        return args[self.place] if isinstance(self.place, int) else kwargs[self.place]


class Branch(torch.nn.Module):
    """What a layer adds to its input, or gives. Of a tuple the first item; `rest` is the others."""

    def __init__(self, layer: torch.nn.Module, label: str, residual: bool) -> None:
        super().__init__()
        self.layer, self.label, self.residual = layer, label, residual
        self.rest: tuple[Any, ...] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the layer's own forward; its hooks are run by whoever called the layer."""
        out = type(self.layer).forward(self.layer, x, *args, **kwargs)
        self.rest = None
        if isinstance(out, tuple):
            out, *rest = out
            self.rest = tuple(self._noted(item, args, kwargs) for item in rest)
        checks.check_output(self.label, out)
        if out.shape != x.shape:
            raise ValueError(
                f"{self.label} gave shape {list(out.shape)} for an input of {list(x.shape)}: in a "
                "reversible chain a layer keeps the shape; leave it out by keep_first= or layers="
            )
        return out - x if self.residual else out

    def modules(self, remove_duplicate: bool = True) -> Iterator[torch.nn.Module]:
        """Yield what a step calls: the layer itself is called around it, and may be sharded."""
        for module in super().modules(remove_duplicate):
            if module is not self.layer:
                yield module

    def _noted(self, item: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not isinstance(item, Tensor):
            return item
        for place, argument in (*enumerate(args), *kwargs.items()):
            if argument is item:
                return Passed(place)
        raise TypeError(
            f"{self.label} returns more than one tensor (attention weights, or a bias that the "
            "first layer computes for all: keep_first=1 then): a step of a reversible chain gives "
            "its stream alone"
        )


class Stack:
    """The chain that a model's layers make; between two layers it holds the other stream."""

    def __init__(
        self,
        layers: Sequence[tuple[str, torch.nn.Module]],
        coupling: Coupling,
        arithmetic: Arithmetic,
        ends: Ends,
        memory: str,
        residual: bool,
    ) -> None:
        self.arithmetic, self.ends, self.memory = arithmetic, ends, memory
        self.steps = [
            Step(Branch(layer, label, residual), coupling, label) for label, layer in layers
        ]
        self.tape: Tape | None = None
        self.held: tuple[Tensor, Tensor] | None = None
        self.reached = self.version = 0

    def attach(self) -> None:
        """Let the layers' calls go through the chain."""
        for index, step in enumerate(self.steps):
            step.block.layer.forward = ChainedForward(self, index)

    def detach(self) -> None:
        """Let the layers' calls be their own again."""
        for step in self.steps:
            del step.block.layer.forward

    def call(self, index: int, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Take one step; the last ends the chain."""
        step, last = self.steps[index], index == len(self.steps) - 1
        a, b = self._begun(hidden) if index == 0 else self._resumed(step, index, hidden)
        if not self.tape.plain:
            args, kwargs = _without_cache(args, kwargs)
        a, b = step(self.tape, a, b, args, kwargs)
        self.held, self.reached, self.version = (a, b), index + 1, _version(b)
        out = self._ended(a, b) if last else b
        rest, step.block.rest = step.block.rest, None
        return _completed(out, rest, args, kwargs)

    def _begun(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        self.tape, self.held = Tape(self.arithmetic, self.memory), None
        return self.tape.open(*self.ends.split(hidden))

    def _resumed(self, step: Step, index: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        last = self.held if self.reached == index else None
        if last is None or not _is_same(last[1], hidden) or _version(hidden) != self.version:
            raise RuntimeError(
                f"{step.label} was not given what the layer before it returned: the model skips "
                "layers or changes the hidden state between them; convert a part of the layers"
            )
        return last[0], hidden

    def _ended(self, a: Tensor, b: Tensor) -> Tensor:
        tape, self.tape, self.held = self.tape, None, None
        return tape.close(self.ends, a, b)


def _completed(
    out: Tensor, rest: tuple[Any, ...] | None, args: tuple, kwargs: dict[str, Any]
) -> Any:
    """Return the output as the layer's own forward would: alone, or with the rest of its tuple."""
    if rest is None:
        return out
    return out, *(item.of(args, kwargs) if isinstance(item, Passed) else item for item in rest)


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether a tensor is another, or a view of all of it, which FSDP2 makes of inputs."""
    if one is other or torch.compiler.is_compiling():
        return one is other
    alike = (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    return alike and one.data_ptr() == other.data_ptr()


def _version(x: Tensor) -> int:
    """How often a tensor was changed in place; a graph has no such changes."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


class ChainedForward:
    """What stands for a layer's forward: its place in a chain."""

    def __init__(self, stack: Stack, index: int) -> None:
        self.stack, self.index = stack, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            kwargs = dict(kwargs)
            args = (kwargs.pop(_first_parameter(self.stack.steps[self.index].block.layer)),)
        return self.stack.call(self.index, args[0], args[1:], kwargs)


def _first_parameter(layer: torch.nn.Module) -> str:
    return list(inspect.signature(type(layer).forward).parameters)[1]


def _without_cache(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments with no transformers cache of keys and values among them.

    A layer that is computed twice would write to it twice.
    """
    known = sys.modules.get("transformers.cache_utils")
    if known is None or not any(isinstance(x, known.Cache) for x in (*args, *kwargs.values())):
        return args, kwargs
    warnings.warn(
        "reversible layers keep no cache of keys and values while they are trained: the model's "
        "use_cache=False says so without this warning",
        stacklevel=2,
    )
    dropped = {name: None if isinstance(x, known.Cache) else x for name, x in kwargs.items()}
    return tuple(None if isinstance(x, known.Cache) else x for x in args), dropped
