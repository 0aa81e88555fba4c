"""The rules of `fxmem.convert`: which modules a key fits, and what a value puts in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fxmem.functional.coding import Options, check

from .generation import drop_in, twin_of
from .linear import RandomizedLinear, sketched_twin
from .twins import plain_twin_of

Module = torch.nn.Module
Key = type[Module] | str | Callable[[Module, str], bool]
Value = type[Module] | Callable[[Module], Module] | Mapping[str, Any] | str
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def checked(value: Value) -> Value:
    """A value as it is used, "output" spelled out as options. Raises for what is no value."""
    value = {"keep": value} if isinstance(value, str) else value
    if isinstance(value, Mapping) and "sketch" in value:
        _check_sketch(value)
    elif isinstance(value, Mapping):
        unknown = value.keys() - set(Options._fields)
        if unknown:
            allowed = ", ".join(Options._fields)
            raise ValueError(f"unknown option {', '.join(sorted(unknown))}; allowed: {allowed}")
        check(Options(**value))
    elif isinstance(value, Module) or not callable(value):
        raise TypeError(
            f"a rule's value must be options, a type of module or a function; got {value!r}"
        )
    return value


def _check_sketch(value: Mapping[str, Any]) -> None:
    if len(value) > 1:
        raise ValueError("a sketch is of a linear layer's input: no other option goes with it")
    asked = value["sketch"]
    options = asked if isinstance(asked, Mapping) else {"proj_dim_ratio": asked}
    RandomizedLinear(1, 1, device="meta", **options)


def chosen(
    sites: Mapping[Module, tuple[str, ...]], values: Mapping[Key, Value]
) -> dict[Module, tuple[tuple[str, ...], Value]]:
    """For each module that a key fits its paths and the first such key's value."""
    fits = {m: [key for key in values if _fits(key, m, paths)] for m, paths in sites.items()}
    unused = values.keys() - {key for keys in fits.values() for key in keys}
    if unused:
        names = sorted(
            repr(k) if isinstance(k, str) else getattr(k, "__qualname__", repr(k)) for k in unused
        )
        raise ValueError(f"nothing in the model fits {', '.join(names)}")
    return {m: (sites[m], values[keys[0]]) for m, keys in fits.items() if keys}


def _fits(key: Key, module: Module, paths: tuple[str, ...]) -> bool:
    if isinstance(key, type):
        return type(module) in (key, twin_of(key), plain_twin_of(key))
    if isinstance(key, str):
        return any(re.fullmatch(key, path) for path in paths)
    return any(key(module, path) for path in paths)


def replacement(value: Value, module: Module) -> Module | str:
    """The new module, or why there is none."""
    if any(getattr(module, name) for name in HOOKS):
        return "it has hooks, which another module would not run"
    if isinstance(value, Mapping):
        try:
            if "sketch" in value:
                return sketched_twin(module, value["sketch"])
            return drop_in(module, **value)
        except ValueError as error:
            return str(error)
    twin = value() if isinstance(value, type) else value(module)
    if not isinstance(twin, Module):
        raise TypeError(f"a rule's function must return a module; got {twin!r}")
    return twin.train(module.training)
