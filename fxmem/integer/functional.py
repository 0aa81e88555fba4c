"""`linear` and `conv2d` as torch has them, with a method's name."""

from __future__ import annotations

from typing import Any

import torch

from .binary import binary_conv2d, binary_linear
from .layers import integer_conv2d, integer_linear
from .methods import BINARY
from .operators import Operator

OPERATORS = frozenset((binary_linear, binary_conv2d, integer_linear, integer_conv2d))
Ints = int | tuple[int, ...]


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, method: str = "int8"
) -> torch.Tensor:
    """F.linear in the integers of a method, forward and backward; `method_of` has their names.

    x is [..., in] of float32, float64, bfloat16 or float16, weight [out, in], bias [out] in full
    precision; the result has x's dtype. Kept are the codes that the product read, not x. Raises
    ValueError for a method that does not exist and RuntimeError for what does not fit.
    """
    return operator_of(method, "linear")(x, weight, bias, method)[0]


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    method: str = "int8",
) -> torch.Tensor:
    """F.conv2d in the integers of a method, forward and backward, as `linear`.

    x is [batch, in, height, width] or has no batch; the result's memory is channels-last. Raises
    ValueError for padding in words other than "valid" and an even "same". Each group is a product
    of its own.
    """
    steps = geometry(weight, stride, padding, dilation, groups)
    return operator_of(method, "conv2d")(x, weight, bias, *steps, method)[0]


def conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """F.conv1d in the integers of a method: a convolution of height 1, arguments as `conv2d`."""
    names = ("stride", "padding", "dilation", "groups", "method")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    flat = {"stride": 1, "padding": 0, "dilation": 1}
    for name, still in flat.items():
        value = given.get(name, still)
        if not isinstance(value, str):
            given[name] = (still, *((value,) if isinstance(value, int) else value))
    return conv2d(x.unsqueeze(-2), weight.unsqueeze(-2), bias, **given).squeeze(-2)


def operator_of(method: str, layer: str) -> Operator:
    """The operator of a method, "linear" or "conv2d"; the result is its first output."""
    if layer == "linear":
        return binary_linear if method in BINARY else integer_linear
    return binary_conv2d if method in BINARY else integer_conv2d


def geometry(
    weight: torch.Tensor, stride: Ints, padding: Ints | str, dilation: Ints, groups: int
) -> tuple[tuple[int, ...] | int, ...]:
    """Stride, padding and dilation of two numbers each, and the groups.

    Raises ValueError for what is not done.
    """
    steps = [(n, n) if isinstance(n, int) else tuple(n) for n in (stride, dilation)]
    if isinstance(padding, str):
        padding = _padding(padding, weight.shape[2:], steps)
    pads = (padding, padding) if isinstance(padding, int) else tuple(padding)
    return steps[0], pads, steps[1], groups


def _padding(word: str, kernel: torch.Size, steps: list[tuple[int, ...]]) -> tuple[int, ...]:
    total = [d * (k - 1) for d, k in zip(steps[1], kernel, strict=True)]
    if word == "valid":
        return tuple(0 for _ in total)
    if word != "same" or any(n % 2 for n in total) or set(steps[0]) != {1}:
        raise ValueError(f"padding must be numbers, 'valid' or an even 'same'; got {word!r}")
    return tuple(n // 2 for n in total)
