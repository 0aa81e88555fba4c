"""The layers of a network made quantized, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from .activation import ReLU, ReLU6
from .config import QuantConfig
from .layers import Conv1d, Conv2d, Linear, Quantized, check_convolution
from .norm import BatchNorm2d

TWINS: dict[type[nn.Module], type[Quantized]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.ReLU: ReLU,
    nn.ReLU6: ReLU6,
}


def config_network(net: nn.Module, name_pattern: str, config: QuantConfig) -> list[str]:
    """Give the layers whose names match a regular expression (in full) these widths, in place.

    Plain layers of torch become quantized; parameters, buffers and hooks stay the same objects.
    Returns the names. Raises ValueError for a pattern that matches no layer, naming it, for a
    network that has none, and for a matched convolution with padding other than zeros, or not the
    same on both sides: then nothing is changed. TypeError for what is no module, pattern or
    QuantConfig.
    """
    kinds = {"net": nn.Module, "name_pattern": str, "config": QuantConfig}
    for what, value in zip(kinds, (net, name_pattern, config), strict=True):
        if not isinstance(value, kinds[what]):
            raise TypeError(f"{what} must be of type {kinds[what].__qualname__}; got {value!r}")
    layers = {name: m for name, m in net.named_modules() if _is_layer(m)}
    if not layers:
        twins = ", ".join(twin.__name__ for twin in TWINS.values())
        raise ValueError(f"{type(net).__name__} has no layer that can be quantized: {twins}")
    found = _matched(layers, name_pattern)
    if not found:
        raise ValueError(
            f"name_pattern {name_pattern!r} matches no layer; there are {', '.join(layers)}"
        )
    for name in found:
        check_convolution(layers[name], f"layer {name!r}")
    for name in found:
        layer = layers[name]
        layer.__class__ = TWINS.get(type(layer), type(layer))
        layer.configure(config)
    return found


def _matched(layers: Iterable[str], name_pattern: str) -> list[str]:
    try:
        pattern = re.compile(name_pattern)
    except re.error as error:
        raise ValueError(
            f"name_pattern {name_pattern!r} is no regular expression: {error}"
        ) from None
    return [name for name in layers if pattern.fullmatch(name)]


def _is_layer(module: nn.Module) -> bool:
    return type(module) in TWINS or isinstance(module, Quantized)
