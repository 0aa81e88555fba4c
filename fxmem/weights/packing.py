"""A trained model in the bits that its method needs, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .export import Export
from .manager import ExternalWeightManager
from .methods import Method
from .rules import Key, Value


def pack_model(
    model: nn.Module,
    method: Method = "binarynet",
    rules: Mapping[Key, Value] | None = None,
    *,
    exempt: Iterable[str] | None = ("first", "last"),
    masters: torch.dtype | None = None,
    **options: Any,
) -> Export:
    """The export of a model that was trained without a manager: by the graph rule `integer`.

    Which layers are packed must be which the rule made binary: by default all but the first and
    the last. Loaded into a new model and transformed by the same rule, "binarynet", "xnor",
    "binaryconnect", "bwn" (method "xnor") and "dorefa:1,A,G" compute the same to the last bit; with
    more bits, DoReFa's weights do not stay what they are when they are quantized again.

    Arguments are ExternalWeightManager's, and `masters` its `export`'s. Raises what these raise.
    """
    manager = ExternalWeightManager(model, method, rules, exempt=exempt, **options)
    try:
        return manager.export(masters)
    finally:
        manager.remove()
