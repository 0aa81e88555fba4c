"""The integers of a stream of a chain: what they stand for, and how a step goes on with them.

A stream that is scaled before each addition, as momentum's velocity, is multiplied by a fraction,
fxmem::shrink, which keeps what that loses. Its integers have more bits, and are laid out as that
operator takes them.
"""

from __future__ import annotations

import operator
from fractions import Fraction

import torch
from torch import fx

from fxmem.ops.shrinking.multiplier import (
    DENOMINATOR,
    EXTRA,
    Multiplier,
    fraction,
    multiplier_for,
)
from fxmem.passes.emit import Emit
from fxmem.passes.graph import aten, tensor
from fxmem.passes.joint.reversible.steps import Step
from fxmem.passes.operators import CAST

LEAST = 1 / DENOMINATOR
NEAR = 2.0**-20  # a fraction's distance from the factor it stands for


def factor(step: Step) -> Fraction | None:
    """Return the fraction that a step multiplies a state of known size by, None for any other."""
    product, scale = step.out.target is aten.mul.Tensor, step.scale
    if not product or not isinstance(scale, float) or not LEAST <= scale <= 1:
        return None
    found = fraction(scale)
    sized = all(isinstance(size, int) for size in tensor(step.out).shape)
    return found if sized and abs(found - scale) < NEAR else None


class Stream:
    """Integers of 32 bits, which are added to."""

    dtype, finer = torch.int32, 1.0

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def held(self, rounded: fx.Node) -> fx.Node:
        """Return rounded floats as integers."""
        return self.emit(CAST, rounded, self.dtype)

    def shaped(self, integers: fx.Node) -> fx.Node:
        """Return integers in the shape of the state."""
        return integers


class Shrinking(Stream):
    """Integers of 64 bits, which are multiplied by a fraction first."""

    dtype, finer = torch.int64, 2.0**EXTRA

    def __init__(self, emit: Emit, state: fx.Node, by: Fraction) -> None:
        super().__init__(emit)
        self.multiplier: Multiplier = multiplier_for(float(by))
        self.shape, self.count = list(tensor(state).shape), tensor(state).numel()
        self.numbers: fx.Node | None = None
        self.bound = 1

    def held(self, rounded: fx.Node) -> fx.Node:
        """Return rounded floats as integers [rounds, width, words], zeros filled in."""
        whole = self.emit(aten.expand.default, super().held(rounded), self.shape)
        flat = self.emit(aten.reshape.default, whole, [-1])
        missing = self.multiplier.missing(self.count)
        padded = self.emit(aten.constant_pad_nd.default, flat, [0, missing], 0)
        return self.emit(aten.reshape.default, padded, list(self.multiplier.shape))

    def shaped(self, integers: fx.Node) -> fx.Node:
        """Return integers in the shape of the state."""
        flat = self.emit(aten.reshape.default, integers, [-1])
        without = self.emit(aten.slice.Tensor, flat, 0, 0, self.count)
        return self.emit(aten.reshape.default, without, self.shape)

    def multiplied(self, integers: fx.Node) -> fx.Node:
        """Return the product, which the next step adds to."""
        by, words = self.multiplier, tensor(integers).shape[-1]
        if by.n == by.d:
            return integers
        if self.numbers is None:
            zeros = {"dtype": torch.int64, "device": tensor(integers).device}
            self.numbers = self.emit(aten.full.default, [words], 0, **zeros)
        shrink = torch.ops.fxmem.shrink.default
        made = self.emit(shrink, integers, self.numbers, by.n, by.d, self.bound)
        product, self.numbers = (self.emit(operator.getitem, made, i) for i in (0, 1))
        self.bound = by.after(self.bound)[1]
        return product
