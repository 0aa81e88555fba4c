"""A method's layers as operators: a linear one and a convolution, with their gradients.

The weight itself lasts until the backward, which quantizes it again: that takes little time, and
the codes would be kept once a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fxmem.ops.integer.channels_last import channels_last
from fxmem.ops.native import Derivative, compose, underivable

from . import checks
from .window import Dense, window_of

Operator = torch._ops.OpOverload
SECOND = "its gradient is that of a rounding, which has no second derivative. Detach it"
CODES = "codes of a layer's input have no derivative: its layer has. Detach it"
ROWS, IMAGES = 2, 4  # the dimensions of inputs that have a batch
KEPT = "Tensor codes, Tensor scale, Tensor mask"
GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "


@dataclass(frozen=True)
class Kind:
    """How a family of methods computes a layer; inside, everything is channels-last.

    Attributes:
        codes: of (x, window, method): what is kept of x.
        layer: of (x, weight, bias, geometry, method): the outputs, and that.
        gradients: of (grad, kept, weight, size, geometry, method, wants): those of x and weight.
        autocast: of (device, *arguments): the arguments where autocast is on.
        keeps_input: of a method, whether x itself is kept in place of its codes.
    """

    name: str
    codes: Callable
    layer: Callable
    gradients: Callable
    autocast: Callable
    keeps_input: Callable[[str], bool] = lambda method: False


def define_layers(kind: Kind) -> tuple[Operator, Operator]:
    """Make `fxmem::{kind}_linear` and `fxmem::{kind}_conv2d`, and `..._codes` of their inputs."""

    def linear_codes(x, method):
        return kind.codes(_batch(x, ROWS), Dense(), method)

    def linear(x, weight, bias, method):
        checks.linear(f"{kind.name}_linear", x, weight, bias)
        y, *kept = kind.layer(_batch(x, ROWS), weight, bias, (), method)
        return _as(x.dim(), y), *kept

    def linear_backward(grad, x, *args):
        *kept, weight, size, method, wants_x, wants_weight = args
        x = _batch(x, ROWS) if kind.keeps_input(method) and wants_weight else x
        given = _size(size, ROWS), (), method, (wants_x, wants_weight)
        x_grad, w_grad = kind.gradients(_batch(grad, ROWS), (x, *kept), weight, *given)
        return _as(len(size), x_grad) if wants_x else x_grad, w_grad

    def conv2d_codes(x, weight, *given):
        *geometry, method = given
        window = window_of(channels_last(weight), geometry)
        return kind.codes(channels_last(_batch(x, IMAGES)), window, method)

    def conv2d(x, weight, bias, *given):
        *geometry, method = given
        checks.conv2d(f"{kind.name}_conv2d", x, weight, bias, geometry)
        images = channels_last(_batch(x, IMAGES))
        y, *kept = kind.layer(images, channels_last(weight), bias, geometry, method)
        return _as(x.dim(), _first(y)), *kept

    def conv2d_backward(grad, x, *args):
        *args, wants_x, wants_weight = args
        *kept, weight, size, stride, padding, dilation, groups, method = args
        batch, channels, high, wide = _size(size, IMAGES)
        grad, real = _batch(grad, IMAGES), kind.keeps_input(method) and wants_weight
        x = channels_last(_batch(x, IMAGES)) if real else x
        given = [batch, high, wide, channels], (stride, padding, dilation, groups), method
        wants = wants_x, wants_weight
        x_grad, w_grad = kind.gradients(
            channels_last(grad), (x, *kept), channels_last(weight), *given, wants
        )
        return (
            _as(len(size), _as_given(x_grad, grad)) if wants_x else x_grad,
            _first(w_grad) if wants_weight else w_grad,
        )

    return (
        _define(kind, "linear", "", linear_codes, linear, linear_backward),
        _define(kind, "conv2d", GEOMETRY, conv2d_codes, conv2d, conv2d_backward),
    )


def _batch(x: torch.Tensor, rank: int) -> torch.Tensor:
    """A layer's input, with a batch of one where it has none."""
    return x.unsqueeze(0) if x.dim() < rank else x


def _size(size: Sequence[int], rank: int) -> list[int]:
    """The size of that, of the input's."""
    return [1, *size] if len(size) < rank else list(size)


def _as(dims: int, x: torch.Tensor) -> torch.Tensor:
    """What was computed, without a batch where the input of so many dimensions had none."""
    return x.squeeze(0) if dims < x.dim() else x


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
    kind: Kind, layer: str, geometry: str, codes: Callable, kernel: Callable, backward: Callable
) -> Operator:
    name = f"{kind.name}_{layer}"
    # Its size says of where XNOR-Net's K is the mean.
    weight = "Tensor weight, " if geometry else ""
    compose(
        f"{name}_codes",
        f"(Tensor x, {weight}{geometry}str method) -> ({KEPT})",
        kernel=codes,
        derivative=underivable(f"{name}_codes", CODES),
    )
    compose(
        f"{name}_backward",
        f"(Tensor grad, {KEPT}, Tensor weight, SymInt[] size, {geometry}str method, "
        "bool wants_x, bool wants_weight) -> (Tensor x_grad, Tensor w_grad)",
        kernel=backward,
        derivative=underivable(f"{name}_backward", SECOND),
    )
    return compose(
        name,
        f"(Tensor x, Tensor weight, Tensor? bias, {geometry}str method) -> (Tensor y, {KEPT})",
        kernel=kernel,
        derivative=Derivative(_deriver(name), _setup(kind.keeps_input)),
        autocast=kind.autocast,
    )


def _setup(keeps_input: Callable[[str], bool]) -> Callable:
    def setup(ctx, inputs, output):
        x, weight, _, *ctx.given = inputs
        _, codes, scale, mask = output
        ctx.mark_non_differentiable(codes, scale, mask)
        ctx.size = x.shape
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        # The input is for the weight's gradient, the mask for its own.
        left = x if keeps_input(ctx.given[-1]) else codes
        left = left if wants_weight else left.new_empty(0)
        mask = mask if wants_x else mask.new_empty(0)
        ctx.save_for_backward(left, scale, mask, weight)

    return setup


def _deriver(name: str) -> Callable:
    def derive(ctx, grad, *_):
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        call = getattr(torch.ops.fxmem, f"{name}_backward")
        given = ctx.size, *ctx.given, wants_x, wants_weight
        x_grad, w_grad = call(grad, *ctx.saved_tensors, *given)
        channel = grad.dim() - (1 if len(ctx.given) == 1 else 3)
        others = [d for d in range(grad.dim()) if d != channel]
        bias_grad = (grad.sum(others) if others else grad) if wants_bias else None
        found = x_grad if wants_x else None, w_grad if wants_weight else None, bias_grad
        return *found, *(None for _ in ctx.given)

    return derive
