"""A norm as its module is when it is called: its mode, its statistics, its weights, its hooks."""

from __future__ import annotations

from typing import Any

import torch

from ..eager import overridable
from . import operators
from .kinds import activate

Module = torch.nn.Module
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NONE = ("identity", 0.0)


@overridable
def of_module(
    input: torch.Tensor, module: Module, activation: tuple[str, float] = NONE
) -> torch.Tensor:
    """Return activation(module(input)), keeping the output.

    The module itself is called where it is no longer the norm of torch that it was: where hooks, a
    parametrization or an adapter have been put on it.
    """
    plain = not any(getattr(module, name, None) for name in HOOKS)
    if plain and type(module) in BATCH_NORMS:
        return batch_norm_of(input, module, activation)
    if plain and type(module) in _OTHERS:
        return _OTHERS[type(module)](input, module)
    return activate(module(input), activation)


def batch_norm_of(
    input: torch.Tensor, module: Module, activation: tuple[str, float]
) -> torch.Tensor:
    """Return what a batch norm and an activation do: torch's own checks, counts and modes."""
    module._check_input_dim(input)
    own_statistics = module.running_mean is None
    running = (module.running_mean, module.running_var)
    if module.training and not module.track_running_stats:
        running = (None, None)
    training, momentum = module.training or own_statistics, _momentum(module)
    rest = (module.weight, module.bias, training, momentum, module.eps, activation)
    return operators.batch_norm(input, *running, *rest)


def _momentum(module: Any) -> float:
    """Count the batch; return its share in the running statistics."""
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            return 1.0 / float(module.num_batches_tracked)
    return 0.0 if module.momentum is None else module.momentum


_OTHERS = {
    torch.nn.LayerNorm: lambda x, m: operators.layer_norm(
        x, m.normalized_shape, m.weight, m.bias, m.eps
    ),
    torch.nn.RMSNorm: lambda x, m: operators.rms_norm(x, m.normalized_shape, m.weight, m.eps),
    torch.nn.GroupNorm: lambda x, m: operators.group_norm(x, m.num_groups, m.weight, m.bias, m.eps),
}
