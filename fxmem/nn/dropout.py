"""Dropout as modules: torch's own, keeping one bit an element."""

from __future__ import annotations

import torch

from fxmem import functional


class Dropout(torch.nn.Dropout):
    """torch.nn.Dropout as fxmem.functional.dropout."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero elements at random in training, and scale the others up."""
        return functional.dropout(input, self.p, self.training, self.inplace)


class AlphaDropout(torch.nn.AlphaDropout):
    """torch.nn.AlphaDropout as fxmem.functional.alpha_dropout."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Mask elements at random in training, keeping mean and variance of a selu's output."""
        return functional.alpha_dropout(input, self.p, self.training, self.inplace)
