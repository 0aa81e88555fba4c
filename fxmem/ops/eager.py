"""Functions that choose what to keep at each call: of plain tensors, and not while tracing."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.overrides import handle_torch_function, has_torch_function

from .activations.checks import FLOATING
from .transforms import backward_alone, refuse

PLAIN = (torch.Tensor, torch.nn.Parameter)
PROXY = torch._C._TorchDispatchModeKey.PROXY  # make_fx's, which may trace plain tensors


def is_differentiated(*tensors: torch.Tensor | None) -> bool:
    """Whether a backward will follow, for which something is kept here and now.

    Not while a compiler traces, which decides for itself what it keeps, nor under torch.func's
    transforms, nor for tensor subclasses, nor on the meta device, where nothing is kept.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        not torch.compiler.is_compiling()
        and torch._C._get_dispatch_mode(PROXY) is None
        and torch.is_grad_enabled()
        and not is_transformed()
        and any(tensor.requires_grad for tensor in given)
        and all(type(tensor) in PLAIN and tensor.dtype in FLOATING for tensor in given)
        and not any(tensor.is_meta for tensor in given)
    )


def is_traced() -> bool:
    """Whether a compiler or torch.func follows a call, which then is of no particular numbers."""
    if torch.compiler.is_compiling():  # Dynamo cannot follow the rest
        return True
    return torch._C._get_dispatch_mode(PROXY) is not None or is_transformed()


def returned(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in this dtype, as what an autograd function returns.

    Compiled by torch 2.11 such a function has no gradient at all if it ends in an operator in
    place, or in a `to` that has nothing to do.
    """
    x = x.to(dtype)
    return x.view_as(x) if torch.compiler.is_compiling() else x


def is_transformed() -> bool:
    """Whether torch.func transforms a call; never while a compiler traces, which sees to that."""
    compiling = torch.compiler.is_compiling()
    return not compiling and torch._C._functorch.peek_interpreter_stack() is not None


def refuse_transforms(name: str, *tensors: torch.Tensor) -> None:
    """Raise where torch.func or forward-mode AD would differentiate a call.

    While a compiler traces, which cannot follow this, the operators do.
    """
    if not torch.compiler.is_compiling():
        refuse(backward_alone(name), tensors)


def overridable(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let `__torch_function__` of its first argument see a call: so torch.fx traces it as one."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        first = (args[0] if args else kwargs["input"],)
        if type(first[0]) not in PLAIN and has_torch_function(first):
            return handle_torch_function(call, first, *args, **kwargs)
        return function(*args, **kwargs)

    return call
