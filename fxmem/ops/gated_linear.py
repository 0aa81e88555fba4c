"""A linear layer behind a gated pair: the product is computed again in the backward, never kept.

`y = linear(act(gate) * up)`; of it the gradients of both factors need the factors, and that of the
weight the product, which costs an activation and a multiplication an element.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .activations import checks
from .native import Derivative, compose, underivable
from .second import SECOND, once

_fxmem = torch.ops.fxmem


def _forward(gate, up, weight, bias, function, parameters):
    checks.matrix("gated_linear", "weight", weight)
    product = _fxmem.gated(gate, up, function, parameters)
    return F.linear(product.to(weight.dtype), weight, bias)


def _autocast(device, gate, up, weight, bias, function, parameters):
    """Cast what a linear layer casts; the product follows its weight."""

    def cast(t: torch.Tensor | None) -> torch.Tensor | None:
        lower = t is not None and t.device.type == device and t.dtype != torch.float64
        return t.to(torch.get_autocast_dtype(device)) if lower else t

    return gate, up, cast(weight), cast(bias), function, parameters


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.atleast_2d(x).flatten(0, -2)


def _weight_backward(grad, gate, up, function, parameters):
    """The gradient of the weight; that of the rest is made of operators that others know."""
    product = _fxmem.gated(gate, up, function, parameters)
    return _rows(grad).t() @ _rows(product.to(grad.dtype))


def _setup(ctx, inputs, output):
    gate, up, weight, _, ctx.function, ctx.parameters = inputs
    wants_factors, wants_product = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[:3])
    factors = (gate, up) if wants_product else (None, None)
    ctx.save_for_backward(*factors, weight if wants_factors else None)


def _derive(ctx, grad):
    gate, up, weight = ctx.saved_tensors
    grad, given = once(grad), (ctx.function, ctx.parameters)
    wants_gate, wants_up, wants_weight, wants_bias = ctx.needs_input_grad[:4]
    gate_grad = up_grad = weight_grad = bias_grad = None
    if wants_gate or wants_up:
        product_grad = (_rows(grad) @ weight).view(gate.shape).to(gate.dtype)
        gate_grad, up_grad = _fxmem.gated_backward(product_grad, gate, up, *given)
    if wants_weight:
        weight_grad = _fxmem.gated_linear_weight_backward(grad, gate, up, *given)
    if wants_bias:
        bias_grad = _rows(grad).sum(0)
    return gate_grad, up_grad, weight_grad, bias_grad, None, None


_gated_linear = compose(
    "gated_linear",
    "(Tensor gate, Tensor up, Tensor weight, Tensor? bias, str function, float[] parameters) -> "
    "Tensor",
    kernel=_forward,
    derivative=Derivative(_derive, _setup),
    autocast=_autocast,
)
# An operator of its own: min-cut would compute a product outside of it in the forward, and keep it.
compose(
    "gated_linear_weight_backward",
    "(Tensor grad, Tensor gate, Tensor up, str function, float[] parameters) -> Tensor",
    kernel=_weight_backward,
    derivative=underivable("gated_linear_weight_backward", SECOND),
)


def gated_linear(
    gate: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    function: str,
    parameters: Sequence[float] = (),
) -> torch.Tensor:
    """Return `linear(function(gate) * up, weight, bias)`, keeping gate, up and weight alone.

    gate and up are float32, bfloat16, float16 or float64 of one shape [..., k], of any strides;
    weight is [n, k], bias [n], and the result [..., n]. The product is rounded to the weight's
    dtype, which under autocast is autocast's. Gradients that nobody wants are not computed. Raises
    RuntimeError for what does not fit, and if the gradient of gate, up or weight is differentiated
    again.
    """
    return _gated_linear(gate, up, weight, bias, function, parameters)
