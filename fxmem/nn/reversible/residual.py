"""The branch of a block that has its skip connection built in."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


class ResidualToPlain(torch.nn.Module):
    """f(x) = block(x) - x: what a block adds to its input. The subtraction keeps nothing.

    `module` is the block; whatever it is called with beside x goes to it.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the block adds to x."""
        return self.module(x, *args, **kwargs) - x


def residual_to_plain(module: torch.nn.Module) -> ResidualToPlain:
    """Return the branch f(x) = block(x) - x of a residual block, as `MomentumNet` takes it.

    What the block computes on the way to its own addition is shared, and nothing is kept twice: the
    gradient of a difference needs neither operand.
    """
    return ResidualToPlain(module)
