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


def _products(left: Terms, right: Terms, dtype: torch.dtype) -> list[torch.Tensor]:
    """The product of each group's matrices."""
    return [
        _summed([t.of_group(g) for t in left], [t.of_group(g) for t in right], dtype)
        for g in range(left[0].codes.size(0))
    ]


def _summed(left: Sequence[Term], right: Sequence[Term], dtype: torch.dtype) -> torch.Tensor:
    total, *pairs = (product(a, b, dtype) for a in left for b in right)
    for pair in pairs:
        total += pair
    return total


def joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    """What the groups' products computed as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _grouped(term: Term, groups: int) -> Term:
    """A matrix whose rows belong to groups, one behind the other, as one of each."""
    size = groups, term.codes.size(0) // groups
    scale = term.scale if term.scale.dim() == 0 else term.scale.reshape(*size, 1)
    return Term(term.codes.unflatten(0, size), scale, term.zero)


def forward(
    x: Operand, weight: Operand, window: Window, lead: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """The outputs [lead..., out] of inputs and weight [out, ..., in]."""
    left = tuple(
        Term(window.rows(t.codes, -int(t.zero)), _per_row(t.scale, lead), t.zero) for t in x.terms()
    )
    flat = (Term(t.codes.flatten(1), t.scale, t.zero) for t in weight.terms())
    right = tuple(_grouped(t, window.groups).t() for t in flat)
    return joined(_products(left, right, dtype), 1).view(*lead, weight.size[0])


def _uniform(operand: Operand) -> tuple[torch.Tensor | None, Terms]:
    """The scales that change along the operand, if they do, and its terms without them."""
    if operand.scale.numel() <= 1 and operand.scale.dim() == 0:
        return None, operand.terms()
    codes, one = operand.integers(), operand.scale.new_ones(())
    return operand.scale, TERMS[operand.quantizer.grid](codes, one, operand.quantizer.bits)


Error = Quantizer | Terms | None


def shared_error(grad: torch.Tensor, x: Operand, weight: Operand, pair: Sequence[Error]) -> Error:
    """The terms of the error that both products read, quantized once; None where they differ."""
    same = pair[0] is not None and pair[0] == pair[1]
    uniform = x.scale.dim() == weight.scale.dim() == 0
    return quantized(grad, pair[0]) if same and uniform else None


def _terms(grad: torch.Tensor, error: Error, factor: torch.Tensor | None) -> Terms:
    return quantized(grad, error, factor) if isinstance(error, Quantizer) else error


def input_gradient(
    grad: torch.Tensor, weight: Operand, error: Error, window: Window, size: Sequence[int]
) -> torch.Tensor:
    """The gradient of the inputs of `size`, given the outputs' [lead..., out]."""
    if error is None:
        return window.input_gradient(grad, weight.values(grad.dtype), size)
    scale, terms = _uniform(weight)
    left = tuple(
        Term(window.input_rows(t.codes, size), _per_row(t.scale, size[:-1]))
        for t in _terms(grad, error, None if scale is None else scale.reshape(-1))
    )
    right = tuple(Term(window.transposed(t.codes), t.scale, t.zero) for t in terms)
    return joined(_products(left, right, grad.dtype), 1).view(*size)


def weight_gradient(
    grad: torch.Tensor, x: Operand, error: Error, window: Window, size: Sequence[int]
) -> torch.Tensor:
    """The gradient of the weight of `size`, [out, ..., in]."""
    if error is None:
        return window.weight_gradient(grad, x.values(grad.dtype), size)
    scale, terms = _uniform(x)
    lead = grad.shape[:-1]
    factor = None if scale is None else _per_row(scale, lead).view(*lead, 1)
    left = _terms(grad, error, factor)
    if not all(t.scale.numel() == 1 or t.scale.size(-1) > 1 for t in left):
        # The factor is in it: what remains of x are its terms without scales.
        rounded = sum(t.codes * t.scale for t in left)
        values = sum((t.codes.to(grad.dtype) + t.zero) * t.scale for t in terms)
        return window.weight_gradient(rounded, values.to(grad.dtype), size)
    right = tuple(Term(window.rows(t.codes, -int(t.zero)), t.scale, t.zero) for t in terms)
    rows = (Term(t.codes.flatten(0, -2), _columns(t.scale)).t() for t in left)
    turned = tuple(_grouped(t, window.groups) for t in rows)
    return joined(_products(turned, right, grad.dtype), 0).view(*size)


def _columns(scale: torch.Tensor) -> torch.Tensor:
    """Scales along the last dimension as one a column; one alone, of a batch of 1, as a number."""
    return scale.reshape(()) if scale.numel() == 1 else scale.reshape(1, -1)
