"""Second derivatives: none of these operators keeps what one needs, and each says so."""

from collections.abc import Callable
from typing import Any

import torch

NOT_KEPT = (
    "what a second derivative needs is not kept. "
    "Use the function of torch where gradients are differentiated again."
)
SECOND = f"it is itself a backward, and {NOT_KEPT}"


def never(name: str, grad: torch.Tensor) -> torch.Tensor:
    """Return grad; raise in a backward that is to be differentiated, `create_graph=True`.

    For those that keep nothing through which a second derivative would find the forward's inputs:
    it would count the gradient as constant, unseen.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has no gradient with create_graph=True: {NOT_KEPT}")
    return grad


def once(grad: torch.Tensor) -> torch.Tensor:
    """Tie the result to a node whose backward raises, in a backward that is to be differentiated.

    Else a gradient that needs none of the tensors that are kept would silently count as constant.
    For those that keep inputs or outputs, or are linear: what leads back to the inputs.
    """
    if torch.is_grad_enabled() and not grad.requires_grad:
        return grad.detach().requires_grad_()
    return grad


class Undifferentiable(torch.autograd.Function):
    """A backward as a node of its own, so that its derivative can be refused.

    `apply(compute, why, *args)` returns compute(*args), and raises `why` when differentiated.
    """

    @staticmethod
    def forward(ctx, compute, why, *args):
        ctx.why = why
        return compute(*args)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(ctx.why)


def undifferentiable(compute: Callable, why: str, grad: torch.Tensor, *args: Any) -> Any:
    """Return compute(grad, *args); as a node that refuses, where it is to be differentiated."""
    if not torch.is_grad_enabled():
        return compute(grad, *args)
    return Undifferentiable.apply(compute, why, once(grad), *args)
