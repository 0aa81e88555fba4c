"""The widths of one quantized layer."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fxmem.integer.methods import fixed
from fxmem.quantizers import wageubn

NARROW = ("weight", "input", "acti")  # operands of int8 products


@dataclass(frozen=True)
class QuantConfig:
    """Widths of a layer, in bits: W8 A8 G8 E8 U24 BN16 by default.

    Of each `*_dec_bit_width` k the step is 2^(1-k), and `*_all_bit_width` is what is stored, sign
    included: a grid saturates at ±(2^(all-1) - 1) steps. Published activations have a step of 2^-7
    and no range, which 8 bits cannot hold; the defaults give them a range of ±4 and a step of 2^-5.

    Attributes:
        weight, bias, input, output, acti, mean, var: what each pair is of.
        error_bit_width: data bits of the errors that a layer passes back, 2 to 8; a flag is added
            in front of convolutions and linear layers.
        gradient_bit_width, gradient_range_bit_width: step and width of weight gradients.
        batch_norm_gradient_bit_width: step of the gradients of batch norms' weights and biases.
        momentum_bit_width, update_bit_width, learning_rate_bit_width: the optimizer's.
        iostrict: whether outputs are put on their grid as well.
        retrain: whether thresholds are trained (TQT), beginning at the grids' ranges.

    Raises:
        ValueError: for a width out of range, by name.
        TypeError: for a switch that is not True or False.
    """

    weight_dec_bit_width: int = 8
    weight_all_bit_width: int = 8
    bias_dec_bit_width: int = 16
    bias_all_bit_width: int = 16
    input_dec_bit_width: int = 6
    input_all_bit_width: int = 8
    output_dec_bit_width: int = 12
    output_all_bit_width: int = 16
    acti_dec_bit_width: int = 6
    acti_all_bit_width: int = 8
    mean_dec_bit_width: int = 16
    mean_all_bit_width: int = 24
    var_dec_bit_width: int = 16
    var_all_bit_width: int = 24
    error_bit_width: int = 8
    gradient_bit_width: int = 15
    gradient_range_bit_width: int = 8
    batch_norm_gradient_bit_width: int = 15
    momentum_bit_width: int = 13
    update_bit_width: int = 24
    learning_rate_bit_width: int = 10
    iostrict: bool = False
    retrain: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("iostrict", "retrain"):
                if not isinstance(value, bool):
                    raise TypeError(f"{field.name} must be True or False; got {value!r}")
                continue
            widest = _widest(field.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 2 <= value <= widest:
                raise ValueError(
                    f"{field.name} must be a whole number from 2 to {widest}; got {value!r}"
                )

    def grid(self, what: str) -> wageubn.AllDirect:
        """The fixed-point grid of "weight", "bias", "input", "output", "acti", "mean" or "var"."""
        step, bits = (getattr(self, f"{what}_{kind}_bit_width") for kind in ("dec", "all"))
        return wageubn.AllDirect(step, bits)

    def method(self) -> str:
        """What `fxmem.integer` calls a layer of these widths."""
        weight, given = self.grid("weight"), self.grid("input")
        pairs = [(grid.fraction, grid.bits) for grid in (weight, given)]
        return fixed(*pairs, self.error_bit_width)


def _widest(name: str) -> int:
    narrow = name == "error_bit_width" or (
        name.endswith("_all_bit_width") and name.startswith(NARROW)
    )
    return 8 if narrow else wageubn.WIDEST
