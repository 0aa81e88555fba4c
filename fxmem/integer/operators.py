"""A method's layers as operators: a linear one and a convolution, with their gradients.

Inside, everything is channels-last; a method's `layer(x, weight, bias, geometry, name)` returns the
outputs and what is kept, its `gradients(grad, kept, weight, size, geometry, name, wants)` those of
x and weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fxmem.ops.integer.channels_last import channels_last
from fxmem.ops.native import Derivative, compose, underivable

from . import checks

Operator = torch._ops.OpOverload
SECOND = "its gradient is that of a rounding, which has no second derivative. Detach it"
KEPT = ("x_codes", "x_scale", "mask", "w_codes", "w_scale")
GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "


def define_layers(
    kind: str,
    layer: Callable,
    gradients: Callable,
    autocast: Callable,
    keeps_input: Callable[[str], bool] = lambda method: False,
) -> tuple[Operator, Operator]:
    """Make `fxmem::{kind}_linear` and `fxmem::{kind}_conv2d`.

    Where `keeps_input(method)`, x itself is kept in place of its codes.
    """

    def linear(x, weight, bias, method):
        checks.linear(f"{kind}_linear", x, weight, bias)
        return layer(x, weight, bias, (), method)

    def linear_backward(grad, *args):
        *kept, weight, size, method, wants_x, wants_weight = args
        return gradients(grad, kept, weight, list(size), (), method, (wants_x, wants_weight))

    def conv2d(x, weight, bias, *given):
        *geometry, method = given
        checks.conv2d(f"{kind}_conv2d", x, weight, bias, geometry)
        y, *kept = layer(*(channels_last(it) for it in (x, weight)), bias, geometry, method)
        return _first(y), *kept

    def conv2d_backward(grad, x, *args):
        *args, wants_x, wants_weight = args
        *kept, weight, size, stride, padding, dilation, groups, method = args
        batch, channels, high, wide = size
        x = channels_last(x) if keeps_input(method) and wants_weight else x
        given = [batch, high, wide, channels], (stride, padding, dilation, groups), method
        wants = wants_x, wants_weight
        x_grad, w_grad = gradients(
            channels_last(grad), (x, *kept), channels_last(weight), *given, wants
        )
        return (
            _as_given(x_grad, grad) if wants_x else x_grad,
            _first(w_grad) if wants_weight else w_grad,
        )

    return (
        _define(f"{kind}_linear", "", linear, linear_backward, autocast, keeps_input),
        _define(f"{kind}_conv2d", GEOMETRY, conv2d, conv2d_backward, autocast, keeps_input),
    )


def _first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _as_given(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The input's gradient, channels-last, in the memory order that the output's came in."""
    if grad.permute(0, 2, 3, 1).is_contiguous():
        return _first(x)
    batch, high, wide, channels = x.shape
    turned = channels_last(x.contiguous().view(batch, high * wide, channels, 1))
    return turned.view(batch, channels, high, wide)


def _define(
    name: str, geometry: str, kernel: Callable, backward: Callable, autocast, keeps_input
) -> Operator:
    kept = [f"Tensor {it}" for it in KEPT]
    operator = compose(
        name,
        f"(Tensor x, Tensor weight, Tensor? bias, {geometry}str method) -> "
        f"({', '.join(['Tensor y', *kept])})",
        kernel=kernel,
        derivative=Derivative(_deriver(name), _setup(keeps_input)),
        autocast=autocast,
    )
    compose(
        f"{name}_backward",
        f"(Tensor grad, {', '.join(kept)}, Tensor weight, SymInt[] size, {geometry}str method, "
        "bool wants_x, bool wants_weight) -> (Tensor x_grad, Tensor w_grad)",
        kernel=backward,
        derivative=underivable(f"{name}_backward", SECOND),
    )
    return operator


def _setup(keeps_input: Callable[[str], bool]) -> Callable:
    def setup(ctx, inputs, output):
        x, weight, _, *ctx.given = inputs
        _, *outputs = output
        ctx.mark_non_differentiable(*outputs)
        ctx.size = x.shape
        x_codes, x_scale, mask, w_codes, w_scale = outputs
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        left = x if keeps_input(ctx.given[-1]) else x_codes
        # Each operand is for the other's gradient, the mask for the input's.
        left = left if wants_weight else left.new_empty(0)
        pair = (mask, w_codes) if wants_x else (mask.new_empty(0), w_codes.new_empty(0))
        ctx.save_for_backward(left, x_scale, *pair, w_scale, weight)

    return setup


def _deriver(name: str) -> Callable:
    def derive(ctx, grad, *others):
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        call = getattr(torch.ops.fxmem, f"{name}_backward")
        given = ctx.size, *ctx.given, wants_x, wants_weight
        x_grad, w_grad = call(grad, *ctx.saved_tensors, *given)
        channel = grad.dim() - 1 if len(ctx.given) == 1 else 1
        bias_grad = grad.sum([d for d in range(grad.dim()) if d != channel]) if wants_bias else None
        found = x_grad if wants_x else None, w_grad if wants_weight else None, bias_grad
        return *found, *(None for _ in ctx.given)

    return derive
