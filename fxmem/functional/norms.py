"""Norms that keep their output for the backward: torch's functions, and what to follow them with.

The gradient is exact but for rounding: in half precision its error is at most twice that of torch's
norm, whatever weight and bias are. Kept are the output, which a linear layer or a convolution that
follows keeps anyway, 1 / deviation, and the normalised input of those channels whose weight is 0 or
smaller than the bias / 1.4, or in which elu has rounded too much to its limit: where that input is
about normal, from a weight of 1.3 on; or that a slope takes below the dtype's smallest normal
number. They are found at each call; on a GPU, where to count them
would wait for the device, `fxmem.ops.norms.channels` says how many have a place, and without a
weight elu keeps all of them.

Torch's own function is called where there is no gradient to keep anything for, while a compiler
traces (its cut recomputes norms), under autocast (but for batch_norm: elsewhere nothing else keeps
the output), and for tensor subclasses. What follows must not overwrite the output in place.
"""

from __future__ import annotations

import torch

from fxmem.ops.norms import operators as norms
from fxmem.ops.norms.operators import group_norm, layer_norm, rms_norm

__all__ = ["batch_norm", "check_activation", "group_norm", "layer_norm", "rms_norm"]
ACTIVATIONS = ("identity", "leaky_relu", "elu")


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    activation_param: float = 0.01,
) -> torch.Tensor:
    """torch.nn.functional.batch_norm and an activation, keeping the activation's output.

    In-Place Activated BatchNorm (Rota Bulò et al., arXiv 1712.02616), but with torch's weight.

    Args:
        input: float32, bfloat16, float16 or float64 [N, C, *]; the others are [C].
        activation: "identity", "leaky_relu" or "elu".
        activation_param: leaky_relu's slope below 0, or elu's alpha; positive.

    Raises:
        ValueError: for another activation, a parameter that is not positive, or one value a channel
            in training.
        RuntimeError: for shapes that do not fit, and if gradients are differentiated again.
    """
    check_activation(activation, activation_param)
    followed = (activation, float(activation_param))
    rest = (weight, bias, training, momentum, eps, followed)
    return norms.batch_norm(input, running_mean, running_var, *rest)


def check_activation(activation: str, parameter: float) -> None:
    """Raise ValueError for an activation whose output does not determine its input."""
    if activation not in ACTIVATIONS:
        allowed = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be one of {allowed}; got {activation!r}")
    if not parameter > 0:
        raise ValueError(f"activation_param must be positive; got {parameter}")
