"""What a block reads beside its arguments, and how it is called again as if nothing had happened.

Random generators, autocast, buffers and modes are noted before the first call. The second call
draws the same numbers, computes in the same dtypes and modes (training, evaluation), and sees, and
updates, copies of the buffers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from .generators import Device, Generator, generators

Tensor = torch.Tensor


class Surroundings:
    """What was around the first call of a block; only what that call changed is kept."""

    def __init__(self, block: Any, devices: Iterable[Device]) -> None:
        self._block = block
        self._modes = [(module, module.training) for module in _modules(block)]
        devices = list(devices)
        self._random = {generator: generator.state() for generator in generators(devices)}
        self._autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in {device.type for device in devices}
            if torch.amp.is_autocast_available(kind)
        ]
        self._buffers = {
            name: (buffer, buffer._version, buffer.clone())
            for name, buffer in _buffers(block).items()
        }

    def settle(self) -> None:
        """Forget what the call left as it was."""
        self._random = {
            generator: state
            for generator, state in self._random.items()
            if not generator.is_at(state)
        }
        if not self._buffers:
            return
        now, silent = _buffers(self._block), running_statistics(self._block)
        self._buffers = {
            name: noted
            for name, noted in self._buffers.items()
            if now.get(name) is not noted[0] or noted[0]._version != noted[1] or name in silent
        }

    def buffers(self) -> dict[str, Tensor]:
        """Return copies of the buffers that the first call changed, as they were before it."""
        return {name: old.clone() for name, (_, _, old) in self._buffers.items()}

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the dtypes of the first call.

        Nothing is taken from autocast's cache of cast weights, and nothing left there: gradients
        would go to a graph that belongs to somebody else, or to none.
        """
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in self._autocast:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
            yield

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw and compute as in the first call; generators and modes are then as they are now."""
        current = {generator: generator.state() for generator in self._random}
        modes = [(module, module.training) for module, _ in self._modes]
        try:
            _set_random(self._random)
            _set_modes(self._modes)
            with self.autocast():
                yield
        finally:
            _set_random(current)
            _set_modes(modes)


def unhooked() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the user's hooks for saved tensors do not see a graph.

    That of a block's first call is mostly dropped: to offload what it saves would be for nothing,
    and an outer checkpoint would hold on to it.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda saved: saved)


def devices_of(*tensors: Tensor) -> list[Device]:
    """Return the devices whose generators a block may draw from, the CPU's first."""
    found = (tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta"))
    return list(dict.fromkeys([Device("cpu"), *found]))


def running_statistics(block: Any) -> set[str]:
    """Return the names of buffers that are updated with no new version: torch's own norms do so."""
    if not isinstance(block, torch.nn.Module):
        return set()
    norms = [(p, m) for p, m in block.named_modules() if isinstance(m, _NormBase) and m.training]
    return {f"{path}.{name}" if path else name for path, m in norms for name in m._buffers}


def _set_random(states: dict[Generator, Any]) -> None:
    for generator, state in states.items():
        generator.set(state)


def _modules(block: Any) -> list[torch.nn.Module]:
    return [m for _, m in block.named_modules()] if isinstance(block, torch.nn.Module) else []


def _set_modes(modes: list[tuple[torch.nn.Module, bool]]) -> None:
    for module, training in modes:
        if module.training != training:
            module.training = training


def _buffers(block: Any) -> dict[str, Tensor]:
    if not isinstance(block, torch.nn.Module):
        return {}
    return {name: b for name, b in block.named_buffers() if not b.is_inference()}
