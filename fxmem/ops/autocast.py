"""Autocast as a device has it: meta has none at all, and torch raises when asked for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

# Not asked of torch: Dynamo of torch 2.11 cannot trace that question.
WITHOUT = ("meta",)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast casts to on a device, None where it is off."""
    kind = device.type
    if kind in WITHOUT or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which nothing is cast on a device."""
    has_one = device.type not in WITHOUT
    return torch.autocast(device.type, enabled=False) if has_one else nullcontext()
