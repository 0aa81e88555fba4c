"""What is saved of a model whose weights are quantized, and what is loaded into it: the masters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .order import CHANGED, State, check
from .sites import Place

if TYPE_CHECKING:
    from .held import Held
    from .manager import ExternalWeightManager


class Hooks:
    """The hooks of one weight on one module that holds it; of no manager in a copy of the model."""

    def __init__(self, manager: ExternalWeightManager, held: Held, place: Place):
        self._manager, self._held = manager, held
        self._attribute = place.attribute
        module = place.module
        self.handles = (
            module.register_state_dict_post_hook(self),
            module.register_load_state_dict_pre_hook(self.before_load),
            module.register_load_state_dict_post_hook(self.after_load),
        )

    def __deepcopy__(self, memo: dict) -> Hooks:
        """Have the master in the copy: a module's parameters are copied before its hooks are."""
        manager, held = self._manager, self._held
        if manager is None:
            return self
        copied = memo.get(id(held.parameter))
        if copied is held.parameter:  # the copy is to share it
            return self
        if copied is not None and manager.state in CHANGED:
            with torch.no_grad():
                copied.copy_(manager.master_of(held))
        inert = object.__new__(Hooks)
        vars(inert).update(vars(self), _manager=None, _held=None, handles=())
        return inert

    def __getstate__(self) -> dict:
        if self._manager is not None:
            raise RuntimeError(
                "a model whose weights are managed cannot be pickled: save its state_dict(), which "
                "has the masters, manager.export(), or call manager.remove() first"
            )
        return vars(self)

    def _manages(self, module: nn.Module) -> ExternalWeightManager | None:
        if self._manager is None:
            return None
        own = getattr(module, self._attribute, None) is self._held.parameter
        return self._manager if own else None

    def __call__(self, module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        """Put the master where the state_dict has the parameter."""
        manager = self._manages(module)
        if manager is None or manager.state not in CHANGED:
            return  # the parameter is the master, or another manager's, whose hook says it
        if prefix + self._attribute in state:
            state[prefix + self._attribute] = manager.master_of(self._held)

    def before_load(self, module: nn.Module, *_) -> None:
        """Have the master loaded into: a state_dict need not have every weight."""
        manager = self._manages(module)
        if manager is not None:
            check("load_state_dict()", manager.state)
            if manager.state is State.QUANTIZED:
                self._held.put_back()

    def after_load(self, module: nn.Module, *_) -> None:
        """Keep the master that was loaded, and quantize it where the weights are quantized."""
        manager = self._manages(module)
        if manager is None or manager.state is State.MASTER:
            return
        self._held.loaded()
        if manager.state is State.QUANTIZED:
            self._held.show("sampled", manager.master_of(self._held), manager.generator)
