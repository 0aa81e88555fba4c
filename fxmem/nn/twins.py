"""Drop-ins that are no activations, by the torch class whose place they take."""

from __future__ import annotations

import copy
from typing import Any

import torch

from . import dropout, max_pool, norms

Module = torch.nn.Module
NORMS = (norms.LayerNorm, norms.RMSNorm, norms.GroupNorm)
NORMS += (norms.BatchNorm1d, norms.BatchNorm2d, norms.BatchNorm3d)
POOLS = (max_pool.MaxPool1d, max_pool.MaxPool2d, max_pool.MaxPool3d)
POOLS += (max_pool.AdaptiveMaxPool1d, max_pool.AdaptiveMaxPool2d, max_pool.AdaptiveMaxPool3d)
DROPOUTS = (dropout.Dropout, dropout.AlphaDropout)
TWINS: dict[type[Module], type[Module]] = {
    getattr(torch.nn, twin.__name__): twin for twin in (*NORMS, *POOLS, *DROPOUTS)
}
NAMES = tuple(twin.__name__ for twin in TWINS.values())


def plain_twin_of(kind: type[Module]) -> type[Module] | None:
    """The drop-in for a module of torch.nn that is no activation, or for such a drop-in."""
    return kind if kind in TWINS.values() else TWINS.get(kind)


def plain_twin(module: Module, **options: Any) -> Module:
    """The drop-in for a module, with its own parameters, buffers and settings.

    Raises ValueError for options, which are those of activations.
    """
    kind = plain_twin_of(type(module))
    keeps = {"keep": "output"} if kind in NORMS else {}
    if options not in ({}, keeps):
        raise ValueError(f"{kind.__name__} is no activation: it takes no {', '.join(options)}")
    twin = kind.__new__(kind)
    vars(twin).update(own_state(module), **keeps)
    return twin


def own_state(module: Module) -> dict[str, Any]:
    """A module's attributes for another: the same parameters and values, registries of its own."""
    state = vars(copy.copy(module))
    registries = {name for name, value in vars(Module()).items() if isinstance(value, (dict, set))}
    return {name: copy.copy(state[name]) if name in registries else state[name] for name in state}
