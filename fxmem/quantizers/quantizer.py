"""What a quantizer is: codes of a tensor, what they are worth, and a gradient for the rounding."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from fxmem import ops
from fxmem.ops.eager import is_transformed, returned
from fxmem.ops.second import undifferentiable
from fxmem.ops.transforms import refuse

from .packed import GRIDS, Packed, Scale
from .rounding import widened

SECOND = "a gradient that a quantizer has rounded has no derivative. Detach it"


class Quantizer:
    """A function to a grid of few values; its subclasses are frozen dataclasses.

    Called, it is differentiable: by the straight-through estimator where nothing else is said
    (Bengio et al. 2013, arXiv 1308.3432). `value` is the same without a gradient, and `pack` the
    same as stored bits. Input is float32, float64, bfloat16 or float16 of any shape; half
    precision is computed in float32. `generator` is for those that draw random numbers; without
    one torch's own serves.
    """

    grid: ClassVar[str]
    signed: ClassVar[bool] = True
    bits: int
    # Whether the gradient passes as it is; else `passes` or `gradient` says what becomes of it.
    straight: bool = True
    # Whether the gradient needs the input, as that of a weight may: a parameter is there anyway.
    needs_input: ClassVar[bool] = False

    def encode(
        self, x: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, Scale]:
        """Whole numbers in x's shape and floating dtype, and the scale that the grid wants."""
        raise NotImplementedError

    def passes(self, x: torch.Tensor) -> torch.Tensor:
        """Which elements' gradients pass, bool: of those that are masked."""
        raise NotImplementedError

    def gradient(self, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to x, given the one with respect to the value."""
        return grad if self.straight else torch.where(self.passes(x), grad, 0)

    def deterministic(self) -> Quantizer:
        """The same without random numbers."""
        draws = getattr(self, "stochastic", False)
        return dataclasses.replace(self, stochastic=False) if draws else self

    def value(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """x on the grid, in x's dtype; no gradient."""
        codes, scale = self.encode(widened(x.detach()), generator)
        return GRIDS[self.grid](codes, scale, self.bits).to(x.dtype)

    def pack(self, x: torch.Tensor, generator: torch.Generator | None = None) -> Packed:
        """The same as integers of `bits` an element. Raises OverflowError where they do not fit."""
        codes, scale = self.encode(widened(x.detach()), generator)
        return Packed.of(codes, scale, self.grid, self.bits, self.signed, x.dtype)

    def quantize(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """x on the grid, with the gradient that this quantizer lets through; a call is the same.

        Compiled by torch 2.11, a quantizer that is made within what is compiled must be asked by
        this name: Dynamo hashes an object before it calls it, and this one has no fields yet.
        """
        refuse_func(type(self).__name__, x)
        if is_transformed():  # as a constant, or by torch.vmap alone
            return self.value(x, generator)
        return _Quantize.apply(x, self, generator)

    __call__ = quantize


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, quantizer, generator):
        ctx.quantizer = quantizer
        if quantizer.needs_input:
            ctx.save_for_backward(x)
        elif not quantizer.straight:
            mask = quantizer.passes(x)
            ctx.layout = tuple(mask.shape), ops.memory_stride(mask)
            ctx.save_for_backward(ops.pack(mask))
        return returned(quantizer.value(x, generator), x.dtype)

    @staticmethod
    def backward(ctx, grad):
        if ctx.quantizer.straight:
            return grad, None, None
        (saved,) = ctx.saved_tensors
        if ctx.quantizer.needs_input:
            return ctx.quantizer.gradient(grad, saved), None, None
        mask = ops.unpack(saved, *ctx.layout, 1, torch.bool)
        return torch.where(mask, grad, 0), None, None


def quantize_gradient(
    x: torch.Tensor, quantizer: Quantizer, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return x; the gradient that comes back through it is put on the quantizer's grid.

    Put behind a layer it quantizes the layer's error, before a weight the weight's gradient.
    """
    refuse_func("quantize_gradient", x)
    return x if is_transformed() else _QuantizeGradient.apply(x, quantizer, generator)


class _QuantizeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, quantizer, generator):
        ctx.quantizer, ctx.generator = quantizer, generator
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return undifferentiable(ctx.quantizer.value, SECOND, grad, ctx.generator), None, None


def refuse_func(name: str, *tensors: torch.Tensor) -> None:
    """Raise where torch.func or forward mode would differentiate a call that is not compiled."""
    if not torch.compiler.is_compiling():
        refuse(
            f"{name} is differentiated by backward() and torch.autograd.grad alone, neither in "
            "forward mode nor by torch.func",
            tensors,
        )


def check_bits(name: str, bits: int, low: int, high: int) -> None:
    """Raise ValueError, in a sentence, for a width out of range."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not low <= bits <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}; got {bits!r}")
