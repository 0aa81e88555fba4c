"""What a layer of integers refuses, in a sentence, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxmem.ops.checks import require

LEAST = {"stride": 1, "padding": 0, "dilation": 1}


def linear(op: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Refuse operands that are no linear layer's."""
    _operands(op, x, weight, bias, 2)
    fits = x.dim() > 0 and x.size(-1) == weight.size(1)
    require(fits, op, "x", f"of {weight.size(1)} channels", tuple(x.shape))


def conv2d(
    op: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Sequence
) -> None:
    """Refuse operands and steps that are no convolution's."""
    _operands(op, x, weight, bias, 4)
    *pairs, groups = geometry
    for (name, least), pair in zip(LEAST.items(), pairs, strict=True):
        right = len(pair) == 2 and all(n >= least for n in pair)
        require(right, op, name, f"2 numbers of at least {least}", list(pair))
    divides = groups >= 1 and weight.size(0) % groups == 0
    require(divides, op, "groups", f"a divisor of {weight.size(0)} outputs", groups)
    require(x.dim() in (3, 4), op, "x", "of 4 dimensions, or of 3 without a batch", x.dim())
    wanted = weight.size(1) * groups
    require(x.size(-3) == wanted, op, "x", f"of {wanted} channels", tuple(x.shape))
    _reach(op, x.shape[-2:], weight.shape[2:], pairs[1], pairs[2])


def _reach(op: str, sizes: Sequence[int], kernel: Sequence[int], padding, dilation) -> None:
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padded = [n + 2 * p for n, p in zip(sizes, padding, strict=True)]
    inside = all(r <= n for r, n in zip(reach, padded, strict=True))
    require(inside, op, "x", f"at least {reach} high and wide with its padding", padded)


def _operands(op: str, x, weight, bias, dim: int) -> None:
    for name, it in (("x", x), ("weight", weight)):
        require(it.is_floating_point(), op, name, "of floating point", it.dtype)
    require(weight.dim() == dim, op, "weight", f"of {dim} dimensions", weight.dim())
    require(weight.device == x.device, op, "weight", "on the device of x", weight.device)
    if bias is not None:
        fits = bias.dim() == 1 and bias.size(0) == weight.size(0)
        require(fits, op, "bias", f"of {weight.size(0)} elements", tuple(bias.shape))
