"""A row of the table becomes a module: torch's own, or a plain one, with the drop-in before it."""

from __future__ import annotations

import functools
import inspect
from inspect import Parameter
from typing import Any

import torch

from fxmem import functional
from fxmem.activations.table import TABLE, Activation
from fxmem.functional.documentation import document
from fxmem.functional.signatures import OPTIONS, arguments, signature

from .activation import DropIn
from .by_hand import twin_by_hand
from .recognition import recognised
from .twins import plain_twin, plain_twin_of

# How torch.nn spells the parts of a name: "relu" is ReLU, "leakyrelu" LeakyReLU.
SPELLINGS = {
    name.lower(): name
    for name, kind in vars(torch.nn).items()
    if isinstance(kind, type) and issubclass(kind, torch.nn.Module)
}
SPELLINGS |= {"swiglu": "SwiGLU", "geglu": "GEGLU"}


def class_name(row: Activation) -> str:
    """The module's name: torch.nn's, or else in its spelling (quick_gelu: QuickGELU)."""
    whole = row.name.replace("_", "")
    words = [SPELLINGS.get(word, word.capitalize()) for word in row.name.split("_")]
    return SPELLINGS.get(whole, "".join(words))


def torch_class(row: Activation) -> type[torch.nn.Module] | None:
    """The module of torch.nn that a row is, None where there is none."""
    return getattr(torch.nn, class_name(row), None)


@functools.cache
def make(row: Activation) -> type[torch.nn.Module]:
    """The module class of a row."""
    name, function = class_name(row), getattr(functional, row.name)
    own = {
        "__module__": "fxmem.nn",
        "__doc__": document(row),
        "function": staticmethod(function),
        "arguments": arguments(row),
    }
    if row.gate:
        return type(name, (_Gated,), own)
    base = torch_class(row)
    own["__signature__"] = _signature(row, base)
    return type(name, (DropIn, base or _Plain), own)


def twin_of(kind: type[torch.nn.Module]) -> type[DropIn] | None:
    """The drop-in for a module of torch.nn, or for a drop-in; None for any other."""
    for row in TABLE.values():
        if not row.gate and kind in (torch_class(row), make(row)):
            return make(row)
    return None


def is_activation(module: torch.nn.Module, path: str = "") -> bool:
    """Whether a drop-in can take a module's place: a key for `fxmem.convert` that fits them all."""
    return twin_of(type(module)) is not None or recognised(module) is not None


def drop_in(module: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """The drop-in for an activation, whatever library it is from, or for a module of torch.nn.

    Raises ValueError where there is none, or where it cannot have these options.
    """
    if plain_twin_of(type(module)) is not None:
        return plain_twin(module, **options)
    twin = twin_of(type(module))
    if twin is not None:
        own = {name: getattr(module, name) for name in twin.arguments}
    elif found := recognised(module):
        twin, own = make(found[0]), found[1]
    elif norm := twin_by_hand(module, **options):
        return norm
    else:
        raise ValueError(f"fxmem.nn has no drop-in for {type(module).__name__}")
    return twin(**own, **options).train(module.training)


def _signature(row: Activation, base: type | None) -> inspect.Signature:
    own = list(signature(row).parameters.values())[1:]
    if base is not None:
        given = list(inspect.signature(base.__init__).parameters.values())[1:]
        given = [parameter for parameter in given if parameter.kind not in _VARIADIC]
        own = [*given, *OPTIONS]
    return inspect.Signature(own)


_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class _Plain(torch.nn.Module):
    """An activation that torch.nn has not: its arguments become attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        for name in self.arguments:
            setattr(self, name, bound.arguments[name])

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.arguments)


class _Gated(torch.nn.Module):
    """Two inputs of one shape, of which nothing else is kept."""

    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return self.function(gate, up)
