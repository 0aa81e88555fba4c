"""The signature of an activation: torch's own where torch has one, then how its slope is kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Literal

import torch

from fxmem.activations.table import TABLE, Activation

Numbers = Sequence[float]
Keep = Literal["codes", "output"]

OPTIONS = (
    Parameter("bits", Parameter.KEYWORD_ONLY, default=None, annotation=int | None),
    Parameter("borders", Parameter.KEYWORD_ONLY, default=None, annotation=Numbers | None),
    Parameter("levels", Parameter.KEYWORD_ONLY, default=None, annotation=Numbers | None),
    Parameter("keep", Parameter.KEYWORD_ONLY, default="codes", annotation=Keep),
    Parameter("unbiased", Parameter.KEYWORD_ONLY, default=False, annotation=bool),
)


def torch_function(row: Activation) -> Callable | None:
    """What torch calls a row, None where it has no such function."""
    if row.torch is None:
        return None
    return getattr(torch.nn.functional, row.torch, None) or getattr(torch, row.torch)


def variants(row: Activation) -> dict[str, dict[str, Activation]]:
    """The rows that an argument of torch's function chooses between, by argument and value."""
    found: dict[str, dict[str, Activation]] = {}
    if row.torch is None or row.torch_keywords:
        return found
    for other in TABLE.values():
        for keyword, value in other.torch_keywords if other.torch == row.torch else ():
            found.setdefault(keyword, {_default(row, keyword): row})[value] = other
    return found


def _default(row: Activation, keyword: str) -> str:
    arguments = getattr(torch.ops.aten, row.torch).default._schema.arguments
    return next(a.default_value for a in arguments if a.name == keyword)


def signature(row: Activation) -> inspect.Signature:
    """The signature of a row's function."""
    if row.gate:
        return _signature(_tensor("gate"), _tensor("up"))
    return _signature(_tensor("input"), *_arguments(row), *OPTIONS)


def arguments(row: Activation) -> tuple[str, ...]:
    """The names of a row's arguments between the input and the options."""
    return tuple(parameter.name for parameter in _arguments(row))


def _arguments(row: Activation) -> list[Parameter]:
    function = None if row.torch_keywords else torch_function(row)
    try:
        own = list(inspect.signature(function).parameters.values())[1:] if function else None
    except ValueError:
        own = None
    if own is None:
        own = [_plain(name, default) for name, default in row.parameters]
        own += [_plain(keyword, next(iter(of))) for keyword, of in variants(row).items()]
    return [parameter for parameter in own if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]


def _plain(name: str, default: float | str) -> Parameter:
    kind = Parameter.POSITIONAL_OR_KEYWORD
    return Parameter(name, kind, default=default, annotation=type(default))


def _tensor(name: str) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=torch.Tensor)


def _signature(*parameters: Parameter) -> inspect.Signature:
    return inspect.Signature(parameters, return_annotation=torch.Tensor)
