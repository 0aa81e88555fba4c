"""What autograd saves, cast to a smaller type or moved to another device until it is needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

Tensor = torch.Tensor


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor is of a real floating type."""
    return tensor.is_floating_point()


def memory_efficient_intermediates(
    storage_dtype: torch.dtype | None = None,
    storage_device: torch.device | str | None = None,
    tensor_filter: Callable[[Tensor], bool] = is_float,
) -> AbstractContextManager[Any]:
    """Hold what the forwards in this context save in another dtype, or on another device.

    A copy belongs to the graph that will need it and is freed with it; a tensor that several
    operations save is stored once. Parameters stay as they are: they are in memory anyway. The name
    and the arguments are RevLib's.

    Args:
        storage_dtype: cast to it and back; gradients then have its precision.
        storage_device: copied there and back; from a GPU to the host through pinned memory.
        tensor_filter: which tensors; the others are kept as they are.
    """
    stored: dict[Any, tuple[StorageWeakRef, weakref.ref[_Stored]]] = {}

    def pack(tensor: Tensor) -> _Stored:
        if not tensor_filter(tensor) or _is_parameter(tensor):
            return _Stored(tensor, None, None)
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        alive, known = stored.get(key, (None, None))
        # An address says nothing once what was there has been freed.
        found = known() if alive is not None and not alive.expired() else None
        if found is None:
            found = _Stored(tensor, storage_dtype, storage_device)
            stored[key] = StorageWeakRef(tensor.untyped_storage()), weakref.ref(found)
        return found

    return saved_tensors_hooks(pack, _Stored.tensor)


class _Stored:
    """A copy of a tensor, or itself where nothing is to change; and where and what it was."""

    def __init__(
        self, tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> None:
        self.dtype, self.device = tensor.dtype, tensor.device
        # Without its past: the tensor could be an output, and hold the node that holds it.
        small = tensor.detach().to(dtype or tensor.dtype)
        self.copy = _moved(small, torch.device(device or tensor.device))
        # Autograd compares no versions where there are hooks.
        self.version = self.copy._version

    def tensor(self) -> Tensor:
        """Return the tensor as it was saved."""
        if self.copy._version != self.version:
            raise RuntimeError(
                f"a tensor of shape {list(self.copy.shape)} that the backward needs was changed by "
                "an in-place operation after memory_efficient_intermediates had seen it"
            )
        return self.copy.to(self.device, non_blocking=True).to(self.dtype)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cpu" or not tensor.is_cuda:
        return tensor.to(device)
    pinned = torch.empty_like(tensor, device=device, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _is_parameter(tensor: Tensor) -> bool:
    base = tensor._base if tensor._is_view() else tensor
    return isinstance(base, torch.nn.Parameter)
