"""The optimizer's hooks: no step on quantized weights, and a manager that follows its optimizer."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .order import CHANGED, OrderError, State, check

if TYPE_CHECKING:
    from .manager import ExternalWeightManager


def guard(manager: ExternalWeightManager, optimizer: Optimizer | None) -> list:
    """Have every other optimizer refuse to step on quantized weights; follow this one.

    Returns the hooks' handles. Raises ValueError if `optimizer` has none of the weights.
    """
    managed = {id(held.parameter) for held in manager.held}
    # Torch keeps this hook for all optimizers: it must keep neither manager nor optimizer alive.
    known, own = weakref.ref(manager), id(optimizer)

    def refuse(stepping: Optimizer, args: tuple, kwargs: dict) -> None:
        manager = known()
        busy = manager is not None and manager.state in CHANGED
        if busy and id(stepping) != own and _trains(stepping, managed):
            check("optimizer.step()", manager.state)

    if optimizer is not None and not _trains(optimizer, managed):
        raise ValueError("the optimizer has none of the weights that are managed")
    everywhere = register_optimizer_step_pre_hook(refuse)
    weakref.finalize(manager, everywhere.remove)
    return [everywhere, *(_follow(manager, optimizer) if optimizer is not None else ())]


def _trains(optimizer: Optimizer, managed: set[int]) -> bool:
    return any(id(p) in managed for group in optimizer.param_groups for p in group["params"])


def _follow(manager: ExternalWeightManager, optimizer: Optimizer) -> list:
    def before(stepping: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        if any(value is not None for value in (*args[1:], kwargs.get("closure"))):
            raise OrderError(
                "a closure would run the forward on the masters: run it first, then call "
                "optimizer.step() without it"
            )
        if manager.state is State.QUANTIZED:
            manager.restore()
        elif manager.state is not State.RESTORED:
            check("optimizer.step()", manager.state)

    def after(stepping: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        manager.clip()
        manager.quantize()

    handles = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
    return list(handles)
