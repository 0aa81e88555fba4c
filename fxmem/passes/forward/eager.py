"""What eager PyTorch keeps for the backward of a cone: found by running it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import _disable_current_modes

from fxmem.passes.forward.cones import Cone

SAMPLES = 64


@dataclass(frozen=True)
class Kept:
    """Bits an element: of the source and of the output, 0 where not kept, and of all between."""

    source: int
    output: int
    between: float


@contextmanager
def plainly() -> Iterator[None]:
    """Run what is inside on the CPU as eager does, whatever compiler or user mode is around it."""
    with (
        _disable_current_modes(),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def kept(cone: Cone, dtype: torch.dtype, shape: tuple[int, ...] = (SAMPLES,)) -> Kept:
    """Run a cone on a source of this dtype and see which storages its backward keeps."""
    count = math.prod(shape)
    source = torch.linspace(-4, 4, count).to(dtype).view(shape).requires_grad_().clone()
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.numel() > 1:  # numbers are kept as tensors, too
            saved[storage.data_ptr()] = 8 * storage.nbytes() // count
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = cone.run(source, casts=True)
        if output is None:
            saved.clear()
            output = cone.run(source, casts=False)
    ends = [saved.pop(t.untyped_storage().data_ptr(), 0) for t in (source, output)]
    return Kept(*ends, sum(saved.values()))
