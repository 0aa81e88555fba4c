"""The optimizer's step: none on quantized weights, and a manager that follows its optimizer."""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .order import CHANGED, OrderError, State, check

if TYPE_CHECKING:
    from .manager import ExternalWeightManager


def guard(manager: ExternalWeightManager, optimizer: Optimizer | None) -> list:
    """Have every optimizer refuse to step on quantized weights; follow this one.

    Returns what has a `remove`. Raises ValueError if `optimizer` has none of the weights, or wraps
    another one, whose steps it may leave out.
    """
    managed = {id(held.parameter) for held in manager.held}
    # Torch keeps this hook for all optimizers: it must keep neither manager nor optimizer alive.
    known, own = weakref.ref(manager), id(optimizer)

    def refuse(stepping: Optimizer, args: tuple, kwargs: dict) -> None:
        manager = known()
        if manager is None or manager.state not in CHANGED or not _trains(stepping, managed):
            return
        if id(stepping) == own and manager.state is State.QUANTIZED:
            raise OrderError(
                "something has replaced the optimizer's step since the manager was made, or goes "
                "round it: make the manager last, or without the optimizer, with calls of "
                "quantize(), restore() and clip()"
            )
        check("optimizer.step()", manager.state)

    if optimizer is not None and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ValueError(
            f"{type(optimizer).__name__} wraps an optimizer: give the manager that one"
        )
    if optimizer is not None and not _trains(optimizer, managed):
        raise ValueError("the optimizer has none of the weights that are managed")
    everywhere = register_optimizer_step_pre_hook(refuse)
    weakref.finalize(manager, everywhere.remove)
    return [everywhere, *([Followed(manager, optimizer)] if optimizer is not None else [])]


def _trains(optimizer: Optimizer, managed: set[int]) -> bool:
    return any(id(p) in managed for group in optimizer.param_groups for p in group["params"])


class Followed:
    """An optimizer whose `step` restores the masters before, and clips and quantizes after.

    It stands on the optimizer itself, as a learning-rate scheduler's does, not among torch's hooks:
    these run once for each class whose `step` calls its base's, and not after a step that raised.
    """

    def __init__(self, manager: ExternalWeightManager, optimizer: Optimizer):
        self._optimizer, self._before = optimizer, vars(optimizer).get("step")
        inner, self._busy = optimizer.step, False

        @functools.wraps(getattr(inner, "__func__", inner))
        def step(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            # What has wrapped this one still calls it; a subclass's step may call `self.step`.
            if manager.state is State.REMOVED or self._busy:
                return inner(*args, **kwargs)
            _prepare(manager, *args, **kwargs)
            self._busy = True
            try:
                result = inner(*args, **kwargs)
            except BaseException:
                _finish(manager, any(held.stepped() for held in manager.held))
                raise
            finally:
                self._busy = False
            _finish(manager, True)
            return result

        self._step = optimizer.step = types.MethodType(step, optimizer)  # schedulers want a method

    def remove(self) -> None:
        """Give the optimizer its own step back, unless something else has wrapped this one."""
        if vars(self._optimizer).get("step") is not self._step:
            return
        if self._before is None:
            del self._optimizer.step
        else:
            self._optimizer.step = self._before


def _prepare(manager: ExternalWeightManager, *args: Any, **kwargs: Any) -> None:
    if any(value is not None for value in (*args, kwargs.get("closure"))):
        raise OrderError(
            "a closure would run the forward on the masters: run it first, then call "
            "optimizer.step() without it"
        )
    if manager.state is State.QUANTIZED:
        try:
            manager.restore()
        except BaseException:
            manager.quantize()
            raise
    elif manager.state is not State.RESTORED:
        check("optimizer.step()", manager.state)


def _finish(manager: ExternalWeightManager, stepped: bool) -> None:
    """Without a step the gradients are the masters' already: `quantize` sees to that."""
    if manager.state is State.RESTORED:
        if stepped:
            manager.clip()
        manager.quantize()
