"""Which weights are quantized, and how: the rules, the method for the rest, the exempt layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .methods import EXEMPT, Method, Treatment, treatment
from .sites import Site, find

Key = type | str | int | torch.dtype | Callable[[nn.Module, str], bool]
Value = Method | Mapping[str, Any] | None
KEYS = (type, str, int, torch.dtype)
ENDS = {"first": 0, "last": -1}


def assign(
    model: nn.Module,
    method: Method,
    options: Mapping[str, Any],
    rules: Mapping[Key, Value],
    exempt: Iterable[str] | None,
) -> list[tuple[Site, Treatment]]:
    """Each weight to be quantized with its treatment; `ExternalWeightManager` says by what rules.

    Raises ValueError for a model without layers, for a rule that fits no weight, and where nothing
    is left to quantize.
    """
    sites = find(model)
    layers = sum(site.index is not None for site in sites)
    for key in rules:
        _check_key(key)
    if not layers and not rules:
        raise ValueError("the model has no quantizable layer: no linear layer and no convolution")
    ends = _ends(exempt if exempt is not None else _usual(method), layers)
    open_sites = [site for site in sites if site.index not in ends]
    fits = {site.name: [k for k in rules if _fits(k, site, layers)] for site in open_sites}
    _check_used(rules, fits.values(), ends)
    chosen = []
    for site in open_sites:
        keys = fits[site.name]
        value = rules[keys[0]] if keys else (method if site.index is not None else None)
        if value is not None:
            chosen.append((site, _treat(site, value, method, options)))
    if not chosen:
        raise ValueError(
            f"no layer is left to quantize: {layers} in all, {len(ends)} exempt (exempt=() exempts "
            "none); a rule of None leaves its layers real, a method of None all that no rule fits"
        )
    return chosen


def check_kinds(model: Any, optimizer: Any, generator: Any) -> None:
    """Raise TypeError where an argument of the manager is something else altogether."""
    kinds = {"model": nn.Module, "optimizer": Optimizer, "generator": torch.Generator}
    given = {"model": model, "optimizer": optimizer, "generator": generator}
    for name, kind in kinds.items():
        optional = name != "model" and given[name] is None
        if not optional and not isinstance(given[name], kind):
            raise TypeError(f"{name} must be of type {kind.__qualname__}; got {given[name]!r}")


def _check_key(key: Key) -> None:
    if isinstance(key, bool) or not (isinstance(key, KEYS) or callable(key)):
        raise TypeError(
            "a rule's key must be a type of module, a regular expression, an index, a dtype or a "
            f"predicate; got {key!r}"
        )
    if isinstance(key, str):
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(f"the rule {key!r} is no regular expression: {error}") from None


def _usual(method: Method) -> tuple[str, ...]:
    return EXEMPT.get(method, ()) if isinstance(method, str) else ()


def _ends(exempt: Iterable[str], layers: int) -> set[int]:
    listed = isinstance(exempt, Iterable) and not isinstance(exempt, str)
    names = set(exempt) if listed else {exempt}
    if not listed or names - ENDS.keys():
        raise ValueError(f"exempt takes a list of 'first' and 'last'; got {exempt!r}")
    return {ENDS[name] % layers for name in names} if layers else set()


def _fits(key: Key, site: Site, layers: int) -> bool:
    """Beyond the layers only an exact name or a type says that a weight is meant."""
    if isinstance(key, type):
        return any(isinstance(place.module, key) for place in site.places)
    if isinstance(key, str) and any(key == place.name for place in site.places):
        return True
    if site.index is None:
        return False
    if isinstance(key, str):
        names = {name for place in site.places for name in (place.path, place.name)}
        return any(re.fullmatch(key, name) for name in names)
    if isinstance(key, torch.dtype):
        return site.parameter is not None and site.parameter.dtype == key
    if isinstance(key, int):
        return site.index == (key if key >= 0 else layers + key)
    return any(key(place.module, place.path) for place in site.places)


def _check_used(rules: Mapping[Key, Value], fits: Iterable[list[Key]], ends: set[int]) -> None:
    used = {key for keys in fits for key in keys}
    names = [getattr(k, "__qualname__", repr(k)) for k in rules if k not in used]
    if names:
        why = "; the first or last layer is exempt, unless exempt=()" if ends else ""
        raise ValueError(f"no quantizable weight fits {', '.join(names)}{why}")


def _treat(site: Site, value: Value, method: Method, options: Mapping[str, Any]) -> Treatment:
    """A mapping changes options of the method, or names another one that has its own."""
    if site.parameter is None:
        raise ValueError(
            f"{site.name} is no floating-point parameter of its own, as under weight_norm, "
            "spectral_norm and pruning: undo these first, or leave the layer real by "
            f"rules={{{site.places[0].path!r}: None}}"
        )
    if not isinstance(value, Mapping):
        wanted = value, options if value is method else {}
    else:
        own = {name: option for name, option in value.items() if name != "method"}
        wanted = (value["method"], own) if "method" in value else (method, {**options, **own})
    try:
        return treatment(site, *wanted)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{site.name}: {error}") from None
