"""The ways to run one model: eager, Inductor with and without settings, fxmem's presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Way:
    """A backend of torch.compile (None: eager), its options, and settings of AOTAutograd.

    The settings are for Inductor alone.
    """

    backend: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def compile(self, function: Callable) -> Callable:
        """Return ``function``, compiled in this way at its first call."""
        if self.backend is None:
            return function
        backend = self._inductor() if self.settings else self.backend
        options = None if self.settings else dict(self.options) or None
        return torch.compile(function, backend=backend, options=options)

    def _inductor(self) -> Callable:
        """Return Inductor under the settings.

        It is a new callable every time: Dynamo runs the code of another call to torch.compile
        whose backend is equal, and does not ask under which settings that was compiled.
        """

        def inductor_with_settings(gm: torch.fx.GraphModule, inputs: list) -> Callable:
            from torch._inductor.compile_fx import compile_fx

            with torch._functorch.config.patch(dict(self.settings)):
                return compile_fx(gm, inputs, config_patches=dict(self.options))

        return inductor_with_settings


def inductor(options: Mapping[str, Any] | None = None, **settings: Any) -> Way:
    """Return Inductor with options of its own and settings of AOTAutograd."""
    return Way("inductor", options or {}, settings)


def fxmem(preset: str, **options: Any) -> Way:
    """Return fxmem with a preset and what refines it."""
    return Way("fxmem", {"preset": preset, **options})


# Inductor comes first: times are ratios to it.
WAYS = {
    "Inductor": inductor(),
    "eager": Way(),
    "Inductor, budget 0.5": inductor(activation_memory_budget=0.5),
    "fxmem exact": fxmem("exact"),
    "fxmem balanced": fxmem("balanced"),
    "fxmem compact": fxmem("compact"),
}
