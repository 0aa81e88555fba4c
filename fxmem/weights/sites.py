"""The weights of a model that can be quantized: each once, with all the places where it stands."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass(frozen=True)
class Place:
    """Where a weight stands: the module, its dotted path and the attribute's name."""

    module: nn.Module
    path: str
    attribute: str

    @property
    def name(self) -> str:
        """The parameter's name, as `named_parameters` says it."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


@dataclass(frozen=True)
class Site:
    """A floating-point parameter of two dimensions or more.

    `index` counts the layers (linear and convolution), in the order of `named_modules`; it is None
    for other parameters, such as an embedding's. A layer whose weight is none, but computed of
    others, has no `parameter`; it counts as the others do.
    """

    parameter: nn.Parameter | None
    places: tuple[Place, ...]
    index: int | None

    @property
    def name(self) -> str:
        """The name of its first place."""
        return self.places[0].name

    @property
    def filters(self) -> int:
        """The dimension that counts the layer's outputs."""
        return int(any(isinstance(place.module, TRANSPOSED) for place in self.places))


def find(model: nn.Module) -> list[Site]:
    """Every such parameter of `model`, and the layers that have none.

    Raises ValueError for a parameter that has no shape yet.
    """
    places: dict[nn.Parameter | nn.Module, list[Place]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False):
            place = Place(module, path, attribute)
            if isinstance(parameter, nn.UninitializedParameter):
                raise ValueError(f"{place.name} has no shape yet: run the model once first")
            if parameter.dim() > 1 and parameter.is_floating_point():
                places.setdefault(parameter, []).append(place)
        if isinstance(module, LAYERS) and module._parameters.get("weight") not in places:
            places.setdefault(module, []).append(Place(module, path, "weight"))
    layers = [key for key, where in places.items() if any(map(_is_layer, where))]
    index = {key: i for i, key in enumerate(layers)}
    return [
        Site(None if isinstance(key, nn.Module) else key, tuple(where), index.get(key))
        for key, where in places.items()
    ]


def _is_layer(place: Place) -> bool:
    return place.attribute == "weight" and isinstance(place.module, LAYERS)


def check_unchanged(site: Site, model: nn.Module) -> None:
    """Raise RuntimeError if the model no longer holds the parameter where it did.

    A module may stand elsewhere: within another one that was put round it.
    """
    for place in site.places:
        names = place.path.split(".") if place.path else []
        now = functools.reduce(lambda outer, name: getattr(outer, name, None), names, model)
        if getattr(now, place.attribute, None) is site.parameter:
            continue
        own = getattr(place.module, place.attribute, None)
        if own is not site.parameter or all(m is not place.module for m in model.modules()):
            raise RuntimeError(
                f"{place.name} is another parameter than when the manager was made, or is gone (a "
                "new layer, fully_shard and load_state_dict(assign=True) replace them): call "
                "remove(), and make the manager afterwards"
            )


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, told without importing torch.distributed."""
    return hasattr(tensor, "full_tensor")
