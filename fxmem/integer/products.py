"""The three products of a layer, forward and backward, of packed operands.

All of them are int8 products where both operands are integers whose scale does not change along
the sum. Where the kept operand's does, it is multiplied into the gradient before that is quantized;
where the gradient's own does, as DoReFa-Net's scale for each sample in a sum over samples, that
product is one of floating-point numbers, of the values that the integers stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxmem.quantizers import Quantizer

from .operand import TERMS, Operand, Terms, quantized
from .product import Term, product
from .window import Window


def _per_row(scale: torch.Tensor, lead: Sequence[int]) -> torch.Tensor:
    """A scale of [..., 1] as one a row of the outputs in `lead`."""
    return scale if scale.dim() == 0 else scale[..., 0].expand(lead).reshape(-1, 1)


def _summed(left: Terms, right: Terms, dtype: torch.dtype) -> torch.Tensor:
    pairs = [product(a, b, dtype) for a in left for b in right]
    return sum(pairs[1:], start=pairs[0])


def forward(
    x: Operand, weight: Operand, window: Window, lead: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """The outputs [lead..., out] of inputs and weight [out, ..., in]."""
    left = tuple(
        Term(window.rows(t.codes, -int(t.zero)), _per_row(t.scale, lead), t.zero) for t in x.terms()
    )
    right = tuple(Term(t.codes.flatten(1), _flat(t.scale), t.zero).t() for t in weight.terms())
    return _summed(left, right, dtype).view(*lead, weight.size[0])


def _flat(scale: torch.Tensor) -> torch.Tensor:
    return scale if scale.dim() == 0 else scale.reshape(-1, 1)


def _uniform(operand: Operand) -> tuple[torch.Tensor | None, Terms]:
    """The scales that change along the operand, if they do, and its terms without them."""
    if operand.scale.numel() <= 1 and operand.scale.dim() == 0:
        return None, operand.terms()
    codes, one = operand.integers(), operand.scale.new_ones(())
    return operand.scale, TERMS[operand.quantizer.grid](codes, one, operand.quantizer.bits)


def input_gradient(
    grad: torch.Tensor,
    weight: Operand,
    error: Quantizer | None,
    window: Window,
    size: Sequence[int],
) -> torch.Tensor:
    """The gradient of the inputs of `size`, given the outputs' [lead..., out]."""
    scale, terms = _uniform(weight)
    factor = None if scale is None else scale.reshape(-1)
    if error is None:
        given = grad if factor is None else grad * factor
        values = _values(terms, grad.dtype)
        return (window.input_rows(given, size) @ window.transposed(values)).view(*size)
    left = tuple(
        Term(window.input_rows(t.codes, size), _per_row(t.scale, size[:-1]))
        for t in quantized(grad, error, factor)
    )
    right = tuple(Term(window.transposed(t.codes), t.scale, t.zero) for t in terms)
    return _summed(left, right, grad.dtype).view(*size)


def weight_gradient(
    grad: torch.Tensor, x: Operand, error: Quantizer | None, window: Window
) -> torch.Tensor:
    """The gradient of the weight, [out, inputs]."""
    scale, terms = _uniform(x)
    lead = grad.shape[:-1]
    factor = None if scale is None else _per_row(scale, lead).view(*lead, 1)
    right = tuple(Term(window.rows(t.codes, -int(t.zero)), t.scale, t.zero) for t in terms)
    left = None if error is None else quantized(grad, error, factor)
    if left is not None and all(t.scale.numel() == 1 or t.scale.size(-1) > 1 for t in left):
        turned = tuple(Term(_rows(t.codes), _columns(t.scale)).t() for t in left)
        return _summed(turned, right, grad.dtype)
    if left is not None:
        grad = sum(t.codes * t.scale for t in left)
    elif factor is not None:
        grad = grad * factor
    return _rows(grad).t() @ _values(right, grad.dtype)


def _values(terms: Terms, dtype: torch.dtype) -> torch.Tensor:
    return sum((t.codes.to(dtype) + t.zero) * t.scale for t in terms).to(dtype)


def _rows(codes: torch.Tensor) -> torch.Tensor:
    return codes.reshape(-1, codes.size(-1))


def _columns(scale: torch.Tensor) -> torch.Tensor:
    return scale if scale.dim() == 0 else scale.reshape(1, -1)
