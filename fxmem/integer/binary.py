"""Layers of 1-bit weights: BinaryNet's and XNOR-Net's on 1-bit inputs, BinaryConnect's on real.

A product of signs is xnor and popcount. Kept are the weight's signs and the input's, a bit each,
with the mask |x| <= 1 of the gradient, another bit; of XNOR-Net's also its scales, one an output's
place and one a filter, which count as constants in the input's gradient. Errors and gradients are
real: their products read the signs unpacked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fxmem import ops
from fxmem.ops.layout import contiguous_stride
from fxmem.ops.xnor import pack_rows, xnor_mm
from fxmem.quantizers import input_scale
from fxmem.quantizers.rounding import widened

from .methods import BINARY, BinaryMethod
from .operators import define_layers
from .window import Dense, lead_of, window_of


def _signs(bits: torch.Tensor, size, dtype: torch.dtype) -> torch.Tensor:
    """±1 of a stream of bits, contiguous."""
    stride = contiguous_stride(tuple(size))
    return ops.unpack(bits, tuple(size), stride, 1, torch.bool).to(dtype).mul_(2).sub_(1)


def _alpha(weight: torch.Tensor, method: BinaryMethod) -> torch.Tensor:
    """The weight's scale, 0-dimensional or one a filter in dimension 0."""
    return method.weight.encode(widened(weight.detach()))[1]


def _products(x: torch.Tensor, weight: torch.Tensor, geometry) -> torch.Tensor:
    """Sums of signs, int32 [outputs, out]; x and weight are channels-last, padding counts 0."""
    window = window_of(weight, geometry)
    words = (pack_rows(it >= 0) for it in (x, weight))
    left, right = window.rows(next(words), 0), next(words).flatten(1)
    sums = xnor_mm(left, right, weight[0].numel())
    if isinstance(window, Dense) or not any(window.padding):
        return sums
    return sums.view(x.size(0), -1, weight.size(0)).add_(_padding(x, weight, window)).flatten(0, 1)


def _padding(x: torch.Tensor, weight: torch.Tensor, window) -> torch.Tensor:
    """What the padding, whose bits say -1, took from the sums: int32 [places, out]."""
    inside = torch.zeros_like(x[:1, ..., :1], dtype=torch.float32)
    high, wide = window.padding
    outside = F.pad(inside, (0, 0, wide, wide, high, high), value=1.0).permute(0, 3, 1, 2)
    signs = torch.where(weight >= 0, 1.0, -1.0).sum(-1).unsqueeze(1)
    lost = F.conv2d(outside, signs, None, window.stride, 0, window.dilation)
    return lost.flatten(2).squeeze(0).t().to(torch.int32)


def _scale_of(x: torch.Tensor, weight: torch.Tensor, geometry) -> torch.Tensor:
    """XNOR-Net's K of x channels-last, [lead..., 1]."""
    if not geometry:
        return input_scale(x)
    kernel = tuple(weight.shape[1:-1])
    return input_scale(x.permute(0, 3, 1, 2), kernel, *geometry).permute(0, 2, 3, 1).contiguous()


def _real(x, weight, geometry, dtype):
    """The products of real inputs channels-last with the weight's signs."""
    signs = torch.where(weight >= 0, 1.0, -1.0).to(dtype)
    if not geometry:
        return F.linear(x, signs)
    last = F.conv2d(x.permute(0, 3, 1, 2), signs.permute(0, 3, 1, 2), None, *geometry)
    return last.permute(0, 2, 3, 1)


def layer(x, weight, bias, geometry, name):
    """The outputs channels-last, and what is kept; of real inputs x itself is."""
    method, wide = BINARY[name], torch.promote_types(x.dtype, torch.float32)
    x, weight = x.contiguous(), weight.contiguous()
    alpha, none = _alpha(weight, method), x.new_empty(0, dtype=torch.uint8)
    k = _scale_of(x.to(wide), weight, geometry) if method.scaled else x.new_ones((), dtype=wide)
    if method.signs:
        sums = _products(x, weight, geometry).to(wide)
        y = sums.view(*lead_of(x, weight, geometry), weight.size(0))
        kept = ops.pack(x >= 0), k, ops.pack(x.abs() <= 1)
    else:
        y, kept = _real(x.to(wide), weight, geometry, wide), (none, k, none.clone())
    y = y * k * (alpha if alpha.dim() == 0 else alpha.reshape(-1))
    y = y if bias is None else y.add_(bias)
    return y.to(x.dtype), *kept, ops.pack(weight >= 0), alpha


def gradients(grad, kept, weight, size, geometry, name, wants):
    """The gradients of x and weight channels-last, empty where nobody wants them."""
    x, k, mask, w_bits, alpha = kept
    method, dtype = BINARY[name], grad.dtype
    grad = grad.to(torch.promote_types(dtype, torch.float32)).contiguous() * k
    x_grad, w_grad = grad.new_empty(0), grad.new_empty(0)
    if wants[0]:
        signs = _signs(w_bits, weight.shape, grad.dtype) * alpha
        x_grad = _input_gradient(grad, signs, size, geometry)
        x_grad = _masked(x_grad, mask, method.signs).to(dtype)
    if wants[1]:
        left = _signs(x, size, grad.dtype) if method.signs else x.to(grad.dtype)
        w_grad = _weight_gradient(grad, left, weight.shape, geometry)
        w_grad = method.weight.gradient(w_grad, weight).to(weight.dtype)
    return x_grad, w_grad


def _masked(grad: torch.Tensor, mask: torch.Tensor, signs: bool) -> torch.Tensor:
    if not signs:
        return grad
    grad = grad.contiguous()
    return torch.where(ops.unpack(mask, grad.shape, grad.stride(), 1, torch.bool), grad, 0)


def _input_gradient(grad, signs, size, geometry):
    if not geometry:
        return grad @ signs
    given = [it.permute(0, 3, 1, 2) for it in (grad, grad.new_empty(1).expand(*size), signs)]
    return _convolved(*given, geometry, (True, False))[0].permute(0, 2, 3, 1)


def _weight_gradient(grad, x, size, geometry):
    if not geometry:
        return grad.flatten(0, -2).t() @ x.flatten(0, -2)
    given = [it.permute(0, 3, 1, 2) for it in (grad, x, x.new_empty(1).expand(*size))]
    return _convolved(*given, geometry, (False, True))[1].permute(0, 2, 3, 1)


def _convolved(grad, x, weight, geometry, wants):
    call = torch.ops.aten.convolution_backward
    return call(grad, x, weight, None, *geometry, False, [0, 0], 1, [*wants, False])


def _autocast(device, x, weight, bias, *given):
    return x.to(torch.get_autocast_dtype(device)), weight, bias, *given


def _keeps_input(method: str) -> bool:
    return not BINARY[method].signs


binary_linear, binary_conv2d = define_layers("binary", layer, gradients, _autocast, _keeps_input)
