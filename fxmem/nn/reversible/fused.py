"""An optimizer's step taken within the backward, as soon as a parameter has its gradient.

Gradients live for as long as one parameter needs them. No threads: autograd calls when a gradient
is whole, that is after its last use in this backward, shared parameters once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

Tensor = torch.Tensor
Factory = Callable[[list[Tensor]], torch.optim.Optimizer]


class FusedOptimizers:
    """An optimizer for each parameter of a module, of those that require grad now."""

    def __init__(self, module: torch.nn.Module, factory: Factory) -> None:
        self.optimizers: dict[Tensor, torch.optim.Optimizer] = {}
        for parameter in module.parameters():
            if parameter.requires_grad:
                self.optimizers[parameter] = factory([parameter])
        self._hook()

    def _hook(self) -> None:
        for parameter in self.optimizers:
            parameter.register_post_accumulate_grad_hook(self._step)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Step the parameters of a copy, which has its own optimizers: hooks are not copied."""
        self.__dict__.update(state)
        self._hook()

    def _step(self, parameter: Tensor) -> None:
        self.optimizers[parameter].step()
        parameter.grad = None

    def check(self, module: torch.nn.Module) -> None:
        """Raise RuntimeError, before a forward, where a step in its backward would be wrong."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if DistributedDataParallel._get_active_ddp_module() is not None:
            raise RuntimeError(
                "fused_optimizer steps before DistributedDataParallel has averaged a gradient: "
                "use an optimizer after the backward"
            )
        for name, parameter in module.named_parameters():
            self._check(name, parameter)

    def _check(self, name: str, parameter: Tensor) -> None:
        if parameter.requires_grad and parameter not in self.optimizers:
            raise RuntimeError(
                f"{name} is another tensor than when fused_optimizer was made, and would never be "
                "stepped: FSDP2 and assignment replace parameters, and requires_grad is read once"
            )
        if parameter.grad is not None:
            raise RuntimeError(
                f"{name} has a gradient already: fused_optimizer steps in every backward, so "
                "gradients are not accumulated over several"
            )
