"""Norms as modules: torch's own, with a say in what is kept for the backward."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from fxmem import functional
from fxmem.functional.norms import check_activation
from fxmem.ops.norms.modules import batch_norm_of

KEEPS = ("output", "input")


def _parameters(kind: type) -> list[inspect.Parameter]:
    return list(inspect.signature(kind.__init__).parameters.values())[1:]


class _Keeping:
    """A norm that keeps its output, or its input as torch's does; a mixin before torch's module.

    Args:
        keep: "output" or "input".
    """

    keep = "output"

    def __init_subclass__(cls) -> None:
        """Give a norm torch's signature, and what may be asked beside it."""
        super().__init_subclass__()
        parents = [base for base in cls.__mro__ if base.__module__.startswith("torch.nn.")]
        theirs = _parameters(parents[0]) if parents else []
        asked = [own for own in _parameters(cls) if own.kind is own.KEYWORD_ONLY]
        cls.__signature__ = inspect.Signature([*theirs, *asked])

    def __init__(self, *args: Any, keep: str = "output", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if keep not in KEEPS:
            raise ValueError(f"keep must be 'output' or 'input'; got {keep!r}")
        self.keep = keep

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep!r}"


class LayerNorm(_Keeping, torch.nn.LayerNorm):
    """torch.nn.LayerNorm as fxmem.functional.layer_norm; keep="input": as torch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise over the last dimensions."""
        if self.keep == "input":
            return super().forward(input)
        own = (self.normalized_shape, self.weight, self.bias, self.eps)
        return functional.layer_norm(input, *own)


class RMSNorm(_Keeping, torch.nn.RMSNorm):
    """torch.nn.RMSNorm as fxmem.functional.rms_norm; keep="input": as torch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Divide by the root of the mean square over the last dimensions."""
        if self.keep == "input":
            return super().forward(input)
        return functional.rms_norm(input, self.normalized_shape, self.weight, self.eps)


class GroupNorm(_Keeping, torch.nn.GroupNorm):
    """torch.nn.GroupNorm as fxmem.functional.group_norm; keep="input": as torch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise over groups of channels and all positions."""
        if self.keep == "input":
            return super().forward(input)
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class _BatchNorm(_Keeping):
    """A batch norm and the activation that follows it, kept as one output.

    Args:
        keep: "output" or, without an activation, "input".
        activation: "identity", "leaky_relu" or "elu", which runs after the norm.
        activation_param: leaky_relu's slope below 0, or elu's alpha; positive.
    """

    activation, activation_param = "identity", 0.01

    def __init__(
        self,
        *args: Any,
        keep: str = "output",
        activation: str = "identity",
        activation_param: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, keep=keep, **kwargs)
        check_activation(activation, activation_param)
        if keep == "input" and activation != "identity":
            raise ValueError(f"keep='input' takes no activation; got {activation!r}")
        self.activation, self.activation_param = activation, activation_param

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise over the batch and all positions, update the running statistics, activate."""
        if self.keep == "input":
            return super().forward(input)
        return batch_norm_of(input, self, (self.activation, self.activation_param))

    def extra_repr(self) -> str:
        followed = "" if self.activation == "identity" else f", activation={self.activation!r}"
        return super().extra_repr() + followed


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d and an activation, as fxmem.functional.batch_norm."""


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d and an activation, as fxmem.functional.batch_norm."""


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d and an activation, as fxmem.functional.batch_norm."""
