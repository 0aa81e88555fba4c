"""Linear layers and convolutions of integers, with thresholds that may be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fxmem import integer
from fxmem.ops.autocast import autocast_dtype
from fxmem.quantizers import tqt

from .config import QuantConfig


class Quantized:
    """A layer with a `config`: a QuantConfig, or its fields as keywords in its place."""

    config: QuantConfig

    def _configure(self, config: QuantConfig | None, widths: dict[str, Any]) -> None:
        if not isinstance(config, QuantConfig | None):
            raise TypeError(f"config must be a QuantConfig; got {config!r}")
        allowed = [field.name for field in fields(QuantConfig)]
        unknown = [name for name in widths if name not in allowed]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} takes no {', '.join(unknown)}; beside its own arguments it "
                f"takes {', '.join(allowed)}"
            )
        self.config = replace(config or QuantConfig(), **widths)

    def configure(self, config: QuantConfig) -> None:
        """Give the layer other widths."""
        self.config = config

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.config}"


def check_precision(layer: nn.Module, x: torch.Tensor) -> None:
    """Raise RuntimeError where half precision would round what is on the layer's grids."""
    if autocast_dtype(x.device) is not None:
        cause, remedy = "autocast's half precision", "leave autocast for it"
    elif x.dtype in (torch.bfloat16, torch.float16):
        cause, remedy = x.dtype, "give it float32"
    else:
        return
    raise RuntimeError(
        f"{type(layer).__name__} computes on fixed-point grids of up to 24 bits, which {cause} "
        f"would round: {remedy}"
    )


def check_convolution(layer: nn.Module, name: str) -> None:
    """Raise ValueError, naming the layer, for a convolution that there is none of in integers."""
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        raise ValueError(f"{name}: integer convolutions pad with zeros; got {layer.padding_mode!r}")
    if getattr(layer, "padding", 0) == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(n % 2 for n in reach):
            raise ValueError(
                f"{name}: integer convolutions pad both sides alike, which padding='same' is not "
                f"for a kernel of {layer.kernel_size}"
            )


class Product(Quantized):
    """What linear layers and convolutions share: int8 products, and thresholds if `retrain`.

    Where thresholds are trained the product is one of the values on their grids, for the gradient
    of a threshold needs the values that it rounds.
    """

    def _configure(self, config, widths):
        super()._configure(config, widths)
        for name in ("weight", "input"):
            self.register_parameter(f"{name}_log2_t", self._threshold(name))

    def configure(self, config: QuantConfig) -> None:
        self._configure(config, {})

    def _threshold(self, name: str) -> nn.Parameter | None:
        if not self.config.retrain:
            return None
        grid = self.config.grid(name)
        start = torch.tensor(float(grid.bits - grid.fraction), device=self.weight.device)
        return nn.Parameter(start)

    def _product(self, x, plain, call, *geometry):
        check_precision(self, x)
        config = self.config
        bias = None if self.bias is None else config.grid("bias").quantize(self.bias)
        if config.retrain:
            x = tqt(x, self.input_log2_t, config.input_all_bit_width)
            weight = tqt(self.weight, self.weight_log2_t, config.weight_all_bit_width)
            y = plain(x, weight, bias, *geometry)
        else:
            y = call(x, self.weight, bias, *geometry, method=config.method())
        return config.grid("output").quantize(y) if config.iostrict else y


class Linear(Product, nn.Linear):
    """nn.Linear of int8 products, forward and backward; `config` or wageubn's widths by name."""

    def __init__(self, in_features, out_features, bias=True, config=None, **widths):
        super().__init__(in_features, out_features, bias)
        self._configure(config, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, F.linear, integer.linear)


class Convolution(Product):
    """What convolutions of any rank share; `functions` are the plain one and the integer one."""

    functions: ClassVar[tuple[Callable, Callable]]

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1,
        bias=True, config=None, **widths,
    ):  # fmt: skip
        geometry = stride, padding, dilation, groups
        super().__init__(in_channels, out_channels, kernel_size, *geometry, bias)
        check_convolution(self, type(self).__name__)
        self._configure(config, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        geometry = self.stride, self.padding, self.dilation, self.groups
        return self._product(x, *self.functions, *geometry)


class Conv2d(Convolution, nn.Conv2d):
    """nn.Conv2d of int8 products, forward and backward; arguments as nn.Conv2d and `Linear`."""

    functions = F.conv2d, integer.conv2d


class Conv1d(Convolution, nn.Conv1d):
    """nn.Conv1d of int8 products, as `Conv2d`."""

    functions = F.conv1d, integer.conv1d
