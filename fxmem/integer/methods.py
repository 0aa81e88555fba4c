"""What a method's name asks for: the quantizers of a layer's input, weight and errors."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from fxmem.quantizers import Binary, Quantizer, XnorWeight, dorefa, wageubn
from fxmem.quantizers.wageubn import AllDirect, Flag

from .absmax import Absmax

NAMES = ("int8", "int8:stochastic", "wageubn8", "dorefa:W,A,G", "binarynet", "xnor")
NAMES = (*NAMES, "binaryconnect", "bwn")
FULL = 32  # the width of what is not quantized


@dataclass(frozen=True)
class Method:
    """The quantizers of a layer: of its input, its weight, and its output's gradient.

    The gradient's may differ for the two products that read it; None leaves it as it is, and the
    product is one of floating-point numbers.
    """

    activation: Quantizer
    weight: Quantizer
    input_error: Quantizer | None
    weight_error: Quantizer | None


@dataclass(frozen=True)
class BinaryMethod:
    """Weights of 1 bit; inputs of 1 bit, or real ones; whether inputs have XNOR-Net's scale K."""

    weight: Quantizer
    signs: bool = True
    scaled: bool = False


BINARY = {
    "binarynet": BinaryMethod(Binary()),
    "xnor": BinaryMethod(XnorWeight(), scaled=True),
    "binaryconnect": BinaryMethod(Binary(), signs=False),
    "bwn": BinaryMethod(XnorWeight(), signs=False),
}


@functools.cache
def method_of(name: str, convolution: bool = False) -> Method:
    """The method of a name: "int8", "int8:stochastic", "wageubn8" or "dorefa:W,A,G".

    "int8" has a scale for each row and each filter (for each sample, of a convolution), and
    ":stochastic" rounds the gradients so that their expectations are right. "wageubn8" has 8-bit
    weights clipped to ±(1 - 2^-7), 8-bit activations of a power-of-two range (published without a
    range, which no width holds), and 9-bit flagged errors. "dorefa:1,2,6" has the widths of
    weights and activations, 1 to 8, and of gradients, 1 to 8 or 32 for none.
    Raises ValueError for other names and widths.
    """
    if name in ("int8", "int8:stochastic"):
        slices, draws = "sample" if convolution else "row", name != "int8"
        errors = (Absmax(8, where, draws) for where in (slices, "channel"))
        return Method(Absmax(8, slices), Absmax(8, "sample"), *errors)
    if name == "wageubn8":
        return Method(wageubn.Shift(), wageubn.weight(), Flag(), Flag())
    grids = re.fullmatch(r"fixed:(\d+)/(\d+),(\d+)/(\d+),(\d+)", name)
    if grids is not None:
        return _fixed(*(int(width) for width in grids.groups()))
    widths = re.fullmatch(r"dorefa:(\d+),(\d+),(\d+)", name)
    if widths is None:
        raise ValueError(f"method must be one of {', '.join(NAMES)}; got {name!r}")
    return _dorefa(*(int(width) for width in widths.groups()))


def kept_bits(name: str) -> int | None:
    """Bits kept of an element of a layer's input, its mask included; None where all of it is."""
    if name in BINARY:
        return 2 if BINARY[name].signs else None
    activation = method_of(name).activation
    return activation.bits + (not activation.straight)


def fixed(weight: tuple[int, int], activation: tuple[int, int], error: int) -> str:
    """The name of fixed-point grids: fraction and width of weights and inputs, bits of errors.

    Of "wageubn8" these are (8, 8), a range that follows the data instead, and 8.
    """
    return "fixed:{}/{},{}/{},{}".format(*weight, *activation, error)


def _fixed(weight: int, weight_bits: int, activation: int, activation_bits: int, error: int):
    grids = AllDirect(activation, activation_bits), AllDirect(weight, weight_bits)
    for quantizer in (*grids, Flag(error)):
        if quantizer.bits > 8 + isinstance(quantizer, Flag):
            raise ValueError(f"an int8 product takes at most 8 bits; got {quantizer}")
    return Method(*grids, Flag(error), Flag(error))


def _dorefa(weight: int, activation: int, gradient: int) -> Method:
    given = {"weight": weight, "activation": activation, "gradient": gradient}
    for what, bits in given.items():
        full = what == "gradient" and bits == FULL
        if not 1 <= bits <= 8 and not full:
            more = ", or 32 for none" if what == "gradient" else ""
            raise ValueError(f"dorefa's {what} width must be 1 to 8{more}; got {bits}")
    error = None if gradient == FULL else dorefa.Gradient(gradient)
    return Method(dorefa.Activation(activation), dorefa.weight(weight), error, error)
