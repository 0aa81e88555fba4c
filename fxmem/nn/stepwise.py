"""A piecewise linear activation of the user's as a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fxmem import functional
from fxmem.functional.activate import numbers
from fxmem.functional.steps import Steps, pair, steps


class Stepwise(torch.nn.Module):
    """fxmem.functional.stepwise: the function of these slopes, or these slopes for a function.

    Args:
        borders, levels, parity, shift, function: as in fxmem.functional.stepwise.

    Raises:
        ValueError: for borders, levels, a parity or a shift that do not fit.
    """

    def __init__(
        self,
        borders: Sequence[float],
        levels: Sequence[float],
        parity: str | None = None,
        shift: tuple[float, float] | None = None,
        *,
        function: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.borders, self.levels = numbers(borders), numbers(levels)
        self.parity, self.shift, self.function = parity, pair(shift), function
        self.steps()

    def steps(self) -> Steps:
        """What comes of the attributes. Raises ValueError where they do not fit."""
        return steps(numbers(self.borders), numbers(self.levels), self.parity, pair(self.shift))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute the activation."""
        own = self.borders, self.levels, self.parity, self.shift
        return functional.stepwise(input, *own, function=self.function)

    def extra_repr(self) -> str:
        """How many levels there are, and what else was given."""
        try:
            parts = [f"{len(self.levels)} levels", f"bits={self.steps().bits}"]
        except Exception as error:  # of attributes that were set later
            parts = [f"impossible: {error}"]
        parts += [f"parity={self.parity!r}"] if self.parity else []
        parts += [f"shift={self.shift}"] if self.shift else []
        name = getattr(self.function, "__name__", self.function)
        return ", ".join([*parts, *([f"function={name}"] if self.function else [])])
