"""Layers of 1-bit weights: BinaryNet's and XNOR-Net's on 1-bit inputs, BinaryConnect's on real.

A product of signs is xnor and popcount. Kept are the input's signs, a bit each, with the mask
|x| <= 1 of the gradient, another bit; of XNOR-Net's also its scale, one an output's place, which
counts as a constant in the input's gradient, as the filters' do. Errors and gradients are real:
their products read the signs unpacked.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fxmem import ops
from fxmem.ops.integer.signs import signs
from fxmem.ops.integer.xnor import WORD, pack_rows, scaled_xnor_mm, xnor_mm
from fxmem.ops.layout import contiguous_stride
from fxmem.quantizers import XnorWeight, input_scale

from .masks import masked
from .methods import BINARY, BinaryMethod
from .operators import Kind, define_layers
from .products import joined
from .window import Dense, Window, lead_of, window_of


def _signs(bits: torch.Tensor, size, dtype: torch.dtype) -> torch.Tensor:
    """±1 of a stream of bits, contiguous."""
    stride = contiguous_stride(tuple(size))
    return ops.lookup(bits, (-1.0, 1.0), 1, tuple(size), stride, dtype)


def _one(magnitude: torch.Tensor) -> torch.Tensor:
    """The scale of signs alone, 0-dimensional: 1, but NaN where what had no sign was a NaN."""
    return magnitude.new_ones(()).masked_fill_(magnitude.isnan().any(), math.nan)


def _filters(weight: torch.Tensor, method: BinaryMethod, dtype: torch.dtype):
    """The weight's signs in bits, and its scale, 0-dimensional or one a filter in dimension 0."""
    bits, _, magnitude = signs(weight.to(dtype).flatten(1))
    if isinstance(method.weight, XnorWeight):
        return bits, magnitude.view(-1, *(1 for _ in weight.shape[1:]))
    return bits, _one(magnitude)


def _words(x: torch.Tensor, bits: torch.Tensor, groups: int) -> torch.Tensor:
    """The signs' bits in rows of whole words, one a group; where groups fill them, as they are."""
    if x.size(-1) // groups % WORD == 0:
        return bits.view(*x.shape[:-1], x.size(-1) // 8)
    return pack_rows(x.unflatten(-1, (groups, -1)) >= 0).flatten(-2)


def _pairs(x, weight, bits, window: Window) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of signs that each group's product reads."""
    left = window.rows(_words(x, bits[0], window.groups), 0)
    size = window.groups, weight.size(0) // window.groups, left.size(-1)
    right = _words(weight, bits[1], 1).reshape(size)
    return list(zip(left, right, strict=True))


def _outputs(x, weight, bits, k, alpha, window: Window) -> torch.Tensor:
    """The scaled sums of products of signs, [outputs, out]; x and weight are channels-last."""
    pairs, n = _pairs(x, weight, bits, window), math.prod(weight.shape[1:])
    padded = not isinstance(window, Dense) and any(window.padding)
    if k.dtype == torch.float32 and window.groups == 1 and not padded:
        return scaled_xnor_mm(*pairs[0], n, k.reshape(-1), alpha.reshape(-1))
    sums = joined([xnor_mm(*pair, n) for pair in pairs], 1)
    if padded:
        taken = _padding(x, weight, window)
        sums.view(x.size(0), *taken.shape).add_(taken)
    lead = k if k.dim() == 0 else _each(k, window, weight).flatten(0, -2)
    return sums.to(k.dtype).mul_(lead).mul_(alpha if alpha.dim() == 0 else alpha.reshape(-1))


def _padding(x: torch.Tensor, weight: torch.Tensor, window: Window) -> torch.Tensor:
    """What the padding, whose bits say -1, took from the sums: int32 [places, out]."""
    inside = x.new_zeros(1, *x.shape[1:3], window.groups, dtype=torch.uint8)
    outside = window.rows(inside, 1)[0].float()
    signs = torch.where(weight >= 0, 1.0, -1.0).sum(-1).flatten(1)
    return (outside @ signs.t()).to(torch.int32)


def _scale(magnitude: torch.Tensor, x: torch.Tensor, window: Window) -> torch.Tensor:
    """XNOR-Net's K, [lead..., groups], of the mean |x| of each place and group."""
    if isinstance(window, Dense):
        return magnitude.view(*x.shape[:-1], 1)
    images = magnitude.view(*x.shape[:-1], window.groups).permute(0, 3, 1, 2)
    steps = window.kernel, window.stride, window.padding, window.dilation
    k = input_scale(images.flatten(0, 1).unsqueeze(1), *steps)
    return k.view(x.size(0), window.groups, *k.shape[2:]).permute(0, 2, 3, 1).contiguous()


def _each(k: torch.Tensor, window: Window, weight: torch.Tensor) -> torch.Tensor:
    """K of each output, or of all at a place."""
    return k if window.groups == 1 else k.repeat_interleave(weight.size(0) // window.groups, -1)


def _real(x, weight, geometry):
    """The products of real inputs channels-last with the weight's signs."""
    signs = torch.where(weight >= 0, 1.0, -1.0).to(x.dtype)
    if not geometry:
        return F.linear(x, signs)
    last = F.conv2d(x.permute(0, 3, 1, 2), signs.permute(0, 3, 1, 2), None, *geometry)
    return last.permute(0, 2, 3, 1)


def codes(x, window, name):
    """What is kept of an input: its signs, XNOR-Net's K, the mask; of real inputs nothing."""
    method, x = BINARY[name], x.contiguous()
    wide = torch.promote_types(x.dtype, torch.float32)
    if not method.signs:
        none = x.new_empty(0, dtype=torch.uint8)
        return none, x.new_ones((), dtype=wide), none.clone()
    rows = math.prod(x.shape[:-1]) * window.groups
    bits, mask, magnitude = signs(x.to(wide).reshape(rows, x.size(-1) // window.groups))
    scale = _scale(magnitude, x, window) if method.scaled else _one(magnitude)
    return bits, scale, mask


def layer(x, weight, bias, geometry, name):
    """The outputs channels-last, and what is kept."""
    method, wide = BINARY[name], torch.promote_types(x.dtype, torch.float32)
    x, weight = x.contiguous(), weight.contiguous()
    window = window_of(weight, geometry)
    kept = codes(x, window, name)
    w_bits, alpha = _filters(weight, method, wide)
    if method.signs:
        y = _outputs(x, weight, (kept[0], w_bits), kept[1], alpha, window)
        y = y.view(*lead_of(x, window), weight.size(0))
    else:
        y = _real(x.to(wide), weight, geometry) * (alpha.reshape(-1) if alpha.dim() else alpha)
    y = y if bias is None else y.add_(bias)
    return y.to(x.dtype), *kept


def gradients(grad, kept, weight, size, geometry, name, wants):
    """The gradients of x and weight channels-last, empty where nobody wants them."""
    x, k, mask = kept
    method, dtype, window = BINARY[name], grad.dtype, window_of(weight, geometry)
    grad = grad.to(torch.promote_types(dtype, torch.float32)).contiguous()
    grad = grad * _each(k, window, weight) if method.scaled else grad
    x_grad, w_grad = grad.new_empty(0), grad.new_empty(0)
    if wants[0]:
        w_bits, alpha = _filters(weight.contiguous(), method, grad.dtype)
        right = _signs(w_bits, weight.shape, grad.dtype)
        right = right if alpha.dim() == 0 else right.mul_(alpha)
        x_grad = window.input_gradient(grad, right, size)
        x_grad = (masked(x_grad, mask) if method.signs else x_grad).to(dtype)
    if wants[1]:
        left = _signs(x, size, grad.dtype) if method.signs else x.to(grad.dtype)
        w_grad = window.weight_gradient(grad, left, weight.shape)
        w_grad = method.weight.gradient(w_grad, weight).to(weight.dtype)
    return x_grad, w_grad


def _autocast(device, x, weight, bias, *given):
    return x.to(torch.get_autocast_dtype(device)), weight, bias, *given


def _keeps_input(method: str) -> bool:
    return not BINARY[method].signs


binary_linear, binary_conv2d = define_layers(
    Kind("binary", codes, layer, gradients, _autocast, _keeps_input)
)
