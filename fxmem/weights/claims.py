"""Whose quantized values a weight has: two managers at once would take each other's for masters."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .order import OrderError

if TYPE_CHECKING:
    from .held import Held
    from .manager import ExternalWeightManager

# Managers are known weakly: each holds its parameters, which would never be freed.
HOLDERS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def check_free(
    weights: Iterable[Held], call: str, manager: ExternalWeightManager | None = None
) -> None:
    """Raise OrderError if a weight has the values of another manager than this one."""
    for held in weights:
        if _holder(held.parameter) not in (None, manager):
            raise OrderError(
                f"{call} expects restore() of another manager first, which has quantized "
                f"{held.site.name}"
            )


def claim(manager: ExternalWeightManager) -> None:
    """Note that the weights have this manager's values."""
    for held in manager.held:
        HOLDERS[held.parameter] = weakref.ref(manager)


def release(manager: ExternalWeightManager) -> None:
    """Note that the weights are the masters again."""
    for held in manager.held:
        HOLDERS.pop(held.parameter, None)


def _holder(parameter: nn.Parameter) -> ExternalWeightManager | None:
    known = HOLDERS.get(parameter)
    return known() if known is not None else None
