"""Random generators that a block may draw from: torch's, Python's own and numpy's."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Device = torch.device


class Generator(Protocol):
    """One of the generators that draw where none is given."""

    def state(self) -> Any:
        """Return a copy of the state."""

    def set(self, state: Any) -> None:
        """Go on from a state."""

    def is_at(self, state: Any) -> bool:
        """Return whether nothing was drawn since the generator was in a state."""


@dataclass(frozen=True)
class TorchGenerator:
    """torch's default generator of a device."""

    device: Device

    def state(self) -> torch.Tensor:
        if self.device.type == "cpu":
            return torch.get_rng_state()
        return torch.get_device_module(self.device).get_rng_state(self.device)

    def set(self, state: torch.Tensor) -> None:
        if self.device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(self.device).set_rng_state(state, self.device)

    def is_at(self, state: torch.Tensor) -> bool:
        return torch.equal(state, self.state())


@dataclass(frozen=True)
class PythonGenerator:
    """That of the functions in `random`."""

    def state(self) -> Any:
        return random.getstate()

    def set(self, state: Any) -> None:
        random.setstate(state)

    def is_at(self, state: Any) -> bool:
        return state == random.getstate()


@dataclass(frozen=True)
class NumpyGenerator:
    """That of the functions in `numpy.random`, whose state is a nest of arrays: here its bytes."""

    def state(self) -> bytes:
        return pickle.dumps(sys.modules["numpy.random"].get_state(legacy=False))

    def set(self, state: bytes) -> None:
        sys.modules["numpy.random"].set_state(pickle.loads(state))

    def is_at(self, state: bytes) -> bool:
        return state == self.state()


def generators(devices: Iterable[Device]) -> list[Generator]:
    """Return the generators of devices, Python's, and numpy's where somebody has imported it."""
    found: list[Generator] = [*map(TorchGenerator, devices), PythonGenerator()]
    return [*found, NumpyGenerator()] if "numpy.random" in sys.modules else found
