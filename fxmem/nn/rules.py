"""The rules of `fxmem.convert`: which modules a key fits, and what a value puts in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from fxmem.functional.coding import Options, check
from fxmem.ops.sketches.projection import Projection

from .generation import drop_in, twin_of
from .linear import RandomizedLinear
from .sketch_twins import sketched_kinds, sketched_twin, why_left
from .twins import plain_twin_of

Module = torch.nn.Module
Key = type[Module] | str | Callable[[Module, str], bool]
Value = type[Module] | Callable[[Module], Module] | Mapping[str, Any] | str
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def checked(rules: Mapping[Key, Value]) -> dict[Key, Value]:
    """Rules as they are used, values spelled out. Raises for what is no key or no value."""
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"rules must be a dict of keys to values, as {{nn.GELU: 'output'}}; got {rules!r}"
        )
    for key in rules:
        _check_key(key)
    return {key: _checked(value) for key, value in rules.items()}


def _checked(value: Value) -> Value:
    """A value as it is used, "output" spelled out as options. Raises for what is no value."""
    value = {"keep": value} if isinstance(value, str) else value
    if _sketches(value):
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


def _check_key(key: Key) -> None:
    """Raise for what cannot be a key."""
    if isinstance(key, Module) or not (isinstance(key, str) or callable(key)):
        raise TypeError(
            f"a rule's key must be a type, a regular expression or a predicate; got {key!r}"
        )
    if isinstance(key, str):
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(f"{key!r} is no regular expression: {error}") from error


def _check_sketch(value: Mapping[str, Any]) -> None:
    if len(value) > 1:
        raise ValueError(
            "a sketch is of a linear layer's input: no other option goes with it "
            "(its own go into a dict: {'sketch': {'proj_dim_ratio': 0.1, 'matmul': 'crs'}})"
        )
    asked = value["sketch"]
    options = asked if isinstance(asked, Mapping) else {"proj_dim_ratio": asked}
    allowed = (*Projection._fields, "generator")
    if unknown := options.keys() - set(allowed):
        raise ValueError(
            f"unknown option of a sketch {', '.join(sorted(unknown))}; "
            f"allowed: {', '.join(allowed)}"
        )
    RandomizedLinear(1, 1, device="meta", **options)


def chosen(
    sites: Mapping[Module, tuple[str, ...]], values: Mapping[Key, Value]
) -> dict[Module, tuple[tuple[str, ...], Value]]:
    """For each module that a key fits its paths and the first such key's value."""
    fits = {m: [key for key in values if _fits(key, m, paths)] for m, paths in sites.items()}
    unused = values.keys() - {key for keys in fits.values() for key in keys}
    if unused:
        paths = [path for found in sites.values() for path in found]
        names = sorted(_unfit(key, paths) for key in unused)
        raise ValueError(f"nothing in the model fits {', '.join(names)}")
    return {m: (sites[m], values[keys[0]]) for m, keys in fits.items() if keys}


def _unfit(key: Key, paths: list[str]) -> str:
    """A key that fits nothing, and the first path that a regular expression fits a part of."""
    if not isinstance(key, str):
        return getattr(key, "__qualname__", repr(key))
    near = next((path for path in paths if re.search(key, path)), None)
    return f"{key!r} (it must match a whole path, as {near!r} is one)" if near else repr(key)


def left_out(
    sites: Mapping[Module, tuple[str, ...]], values: Mapping[Key, Value], found: Collection[Module]
) -> dict[Module, str]:
    """Linear layers that no key fits, though a type is to be sketched, each with the reason."""
    types = [key for key, value in values.items() if isinstance(key, type) and _sketches(value)]
    why = {module: why_left(module) for module in sites if types and module not in found}
    return {module: reason for module, reason in why.items() if reason}


def _sketches(value: Value) -> bool:
    return isinstance(value, Mapping) and "sketch" in value


def _fits(key: Key, module: Module, paths: tuple[str, ...]) -> bool:
    if isinstance(key, type):
        return type(module) in (key, twin_of(key), plain_twin_of(key), *sketched_kinds(key))
    if isinstance(key, str):
        return any(re.fullmatch(key, path) for path in paths)
    return any(key(module, path) for path in paths)


def replacement(value: Value, module: Module) -> Module | str:
    """The new module, or why there is none."""
    if any(getattr(module, name) for name in HOOKS):
        return "it has hooks, which another module would not run"
    if "forward" in vars(module):
        return "its forward was replaced on the module itself, which another would not have"
    if isinstance(value, Mapping):
        try:
            if _sketches(value):
                return sketched_twin(module, value["sketch"])
            return drop_in(module, **value)
        except ValueError as error:
            return str(error)
    twin = value() if isinstance(value, type) else value(module)
    if not isinstance(twin, Module):
        raise TypeError(f"a rule's function must return a module; got {twin!r}")
    return twin.train(module.training)
