"""transformers' Conv1D, as GPT-2 has it: a linear layer whose weight lies the other way round."""

from __future__ import annotations

from typing import Any

import torch

from fxmem.ops.sketches.linear import sketched
from fxmem.ops.sketches.projection import Projection, check
from fxmem.ops.sketches.shared import check_generator


class RandomizedConv1D(torch.nn.Module):
    """transformers' Conv1D that keeps a sketch of its input for the gradient of its weight.

    Args:
        nf, nx: output and input features, in transformers' order; weight is [nx, nf], bias [nf].
        device, dtype: of both.
        proj_dim_ratio, proj_dim, proj_dim_min, proj_dim_max, matmul, generator: as in
            fxmem.functional.linear_randomized. Layers that are given the very same tensor and have
            the same of these share one sketch, but under other compilers than fxmem.

    Raises:
        ValueError: for what no batch can have; proj_dim over the batch when it is called.
    """

    def __init__(
        self,
        nf: int,
        nx: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        generator: torch.Generator | None = None,
        **projection: Any,
    ) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = torch.nn.Parameter(torch.empty(nx, nf, device=device, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(nf, device=device, dtype=dtype))
        torch.nn.init.normal_(self.weight, std=0.02)
        self.projection = Projection(**projection)
        check(self.projection)
        check_generator(generator)
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer."""
        given = (self.weight.mT, self.bias, self.projection, self.generator)
        return sketched(x, *given, user=self.weight, training=self.training)

    def extra_repr(self) -> str:
        """The sizes, then how much is kept and how."""
        return ", ".join([f"nf={self.nf}, nx={self.nx}", *self.projection.given()])


def is_conv1d(module: torch.nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, which need not be installed, or a copy of it."""
    if type(module).__name__ != "Conv1D" or not hasattr(module, "nf"):
        return False
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    nx = shapes.get("weight", (0,))[0]
    return shapes == {"weight": (nx, module.nf), "bias": (module.nf,)}
