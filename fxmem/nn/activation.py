"""What all drop-in activations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxmem.functional.activate import numbers, resolve
from fxmem.functional.coding import Coding, Options


class DropIn:
    """An activation that keeps codes of its slope, or its output; a mixin before torch's module.

    Attributes:
        bits, borders, levels, keep, unbiased: as in fxmem.functional; they may be set at any time.
    """

    function: Callable[..., torch.Tensor]
    arguments: tuple[str, ...]  # of the function, which the module has as attributes

    def __init__(
        self,
        *args: Any,
        bits: int | None = None,
        borders: Sequence[float] | None = None,
        levels: Sequence[float] | None = None,
        keep: str = "codes",
        unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options = Options(bits, numbers(borders), numbers(levels), keep, unbiased)
        self.bits, self.borders, self.levels, self.keep, self.unbiased = options
        self.coding()

    @property
    def options(self) -> Options:
        """How the slope is kept, as it was asked for."""
        return Options(self.bits, self.borders, self.levels, self.keep, self.unbiased)

    def own_arguments(self) -> dict[str, Any]:
        """The arguments of the activation itself, as torch's function takes them."""
        return {name: getattr(self, name) for name in self.arguments}

    def coding(self) -> Coding:
        """What comes of the options. Raises ValueError where they are impossible."""
        given = {name: value for name, value in self.own_arguments().items() if name != "inplace"}
        return resolve(self.function.__name__, given, self.options)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute the activation."""
        return self.function(input, **self.own_arguments(), **self.options._asdict())

    def extra_repr(self) -> str:
        """Torch's, then what is kept."""
        return ", ".join(part for part in (super().extra_repr(), self._kept()) if part)

    def _kept(self) -> str:
        try:
            coding = self.coding()
        except Exception as error:  # of options that were set later
            return f"impossible: {error}"
        if coding.bits == 0:
            return "keep='output'"
        own = "" if self.levels is None else ", own levels"
        return f"bits={coding.bits}{own}{', unbiased=True' if coding.drawn else ''}"
