"""Autocast as a device has it: some have none at all, meta among them, and torch raises there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast casts to on a device, None where it is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which nothing is cast on a device."""
    has_one = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if has_one else nullcontext()
