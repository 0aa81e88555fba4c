"""Which layers can keep a sketch of their input, and the randomized layers in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .conv1d import RandomizedConv1D, is_conv1d
from .linear import LinearCRS, RandomizedLinear

Module = torch.nn.Module
LINEAR = (torch.nn.Linear, RandomizedLinear, LinearCRS)


def sketched_twin(module: Module, asked: float | Mapping[str, Any]) -> Module:
    """The randomized layer with a linear layer's own parameters; `asked`: a ratio or options.

    Raises ValueError for any module but torch.nn.Linear and transformers' Conv1D.
    """
    options = asked if isinstance(asked, Mapping) else {"proj_dim_ratio": asked}
    if type(module) in LINEAR:
        sizes = module.in_features, module.out_features, module.bias is not None
        twin = RandomizedLinear(*sizes, device="meta", **options)
    elif _is_conv1d(module):
        twin = RandomizedConv1D(module.nf, module.weight.size(0), device="meta", **options)
    else:
        kind = type(module).__name__
        raise ValueError(
            f"a sketch is kept by torch.nn.Linear and transformers' Conv1D; this is {kind}"
        )
    twin.weight, twin.bias = module.weight, module.bias
    return twin.train(module.training)


def sketched_kinds(kind: type[Module]) -> tuple[type[Module], ...]:
    """The randomized layers that stand for a type in the rules of `fxmem.convert`."""
    if kind is torch.nn.Linear:
        return RandomizedLinear, LinearCRS
    return (RandomizedConv1D,) if kind.__name__ == "Conv1D" else ()


def why_left(module: Module) -> str | None:
    """Why a linear layer is left; None for other modules, and where a sketch is kept."""
    kind = type(module).__name__
    if type(module) is torch.nn.Linear or is_conv1d(module):
        return f"{kind} is a linear layer, too: a rule by its type or path would sketch it"
    if isinstance(module, torch.nn.Linear) and type(module) not in LINEAR:
        return f"{kind} is no torch.nn.Linear itself, but a subclass"
    return None


def _is_conv1d(module: Module) -> bool:
    return type(module) is RandomizedConv1D or is_conv1d(module)
