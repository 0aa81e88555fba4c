"""Linear layers as modules: FewBit's arguments, torch's parameters and state_dict."""

from __future__ import annotations

from typing import Any

import torch

from fxmem.ops.sketches.linear import sketched
from fxmem.ops.sketches.projection import Projection, check
from fxmem.ops.sketches.shared import check_generator


class RandomizedLinear(torch.nn.Linear):
    """torch.nn.Linear that keeps a sketch of its input for the gradient of its weight.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear has them.
        proj_dim_ratio, proj_dim, proj_dim_min, proj_dim_max, matmul, generator: as in
            fxmem.functional.linear_randomized. Layers that are given the very same tensor and have
            the same of these share one sketch, but under other compilers than fxmem.

    Raises:
        ValueError: for what no batch can have; proj_dim over the batch when it is called.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_dim_ratio: float | None = None,
        proj_dim: int | None = None,
        proj_dim_min: int | None = None,
        proj_dim_max: int | None = None,
        matmul: str = "gaussian",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.projection = Projection(proj_dim_ratio, proj_dim, proj_dim_min, proj_dim_max, matmul)
        check(self.projection)
        check_generator(generator)
        self.generator = generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute the layer."""
        given = (self.weight, self.bias, self.projection, self.generator)
        return sketched(input, *given, training=self.training)

    def extra_repr(self) -> str:
        """Torch's, then how much is kept and how."""
        return ", ".join([super().extra_repr(), *self.projection.given()])


class LinearCRS(RandomizedLinear):
    """torch.nn.Linear that keeps rows of its input, drawn at random, for its weight's gradient.

    Args:
        norm_weighted: whether rows are drawn in proportion to their norms, or evenly.
        others: as of RandomizedLinear, without `matmul`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm_weighted: bool = False,
        **projection: Any,
    ) -> None:
        if "matmul" in projection:
            raise TypeError("LinearCRS draws rows: matmul is RandomizedLinear's")
        kind = "crs_norm" if norm_weighted else "crs"
        super().__init__(in_features, out_features, bias, device, dtype, **projection, matmul=kind)
