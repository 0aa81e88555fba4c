"""Calls that neither torch.func nor forward mode may differentiate, and say so.

Of an operator with a backward of Python's, torch (2.13) drops the tangent without a word, and
torch.func.grad raises a sentence that does not name it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch.autograd import forward_ad


def backward_alone(name: str) -> str:
    """The sentence of a call that has a backward and nothing else."""
    return (
        f"{name} is differentiated by backward() and torch.autograd.grad alone, neither in "
        "forward mode nor by torch.func. Use the function of torch there."
    )


def refuse(sentence: str, values: Iterable[object]) -> None:
    """Raise where torch.func or forward mode would differentiate a call with these arguments.

    Not where torch.vmap alone transforms it.
    """
    transformed = torch._C._are_functorch_transforms_active()
    if not transformed and forward_ad._current_level < 0:
        return
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if (transformed and wanted) or any(map(_has_tangent, tensors)):
        raise RuntimeError(sentence)


def _has_tangent(tensor: torch.Tensor) -> bool:
    """Whether forward mode differentiates a tensor; of a batch the kernel is asked, one by one."""
    if torch._C._functorch.is_batchedtensor(tensor):
        return False
    # Level 0 is the only one, which Python does not count where a compiler traces.
    return forward_ad.unpack_dual(tensor, level=0).tangent is not None


def refusing(sentence: str, kernel: Callable) -> Callable:
    """Let an operator's autograd kernel, which gets its dispatch keys first, refuse such calls."""

    @functools.wraps(kernel)
    def call(keys, *args):
        refuse(sentence, args)
        return kernel(keys, *args)

    return call
