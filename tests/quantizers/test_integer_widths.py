"""Widths: what is out of range, what does not fit, and the roles of WAGEUBN's."""

import math

import numpy as np
import pytest
import torch

from fxmem.ops.integer import storage
from fxmem.quantizers import Binary, Packed, dorefa, wageubn

from . import formulas


def test_refusals():
    with pytest.raises(OverflowError, match=r"8 bits hold codes from -128 to 127; got 256"):
        wageubn.Direct(8).pack(torch.tensor([2.0]))
    with pytest.raises(OverflowError, match="got nan to nan"):
        wageubn.weight(8).pack(torch.tensor([math.nan]))
    with pytest.raises(TypeError, match=r"takes a floating-point tensor; got torch.int64"):
        Binary()(torch.arange(3))
    with pytest.raises(RuntimeError, match="bits must be 1 to 24; got 25"):
        storage.store(torch.zeros(1), 25, True)
    with pytest.raises(ValueError, match="grid must be one of fixed, flagged"):
        Packed.from_dict({**Binary().pack(torch.ones(2)).to_dict(), "grid": "round"})


RANGES = [
    (wageubn.Direct, "bits", 2, 24),
    (wageubn.Shift, "bits", 2, 24),
    (wageubn.Flag, "data_bits", 2, 12),
    (wageubn.Constant, "range_bits", 2, 24),
    (wageubn.Widths, "update", 2, 24),
    (wageubn.Widths, "error", 2, 12),
    (dorefa.weight, "bits", 1, 16),
    (dorefa.Activation, "bits", 1, 16),
    (dorefa.Gradient, "bits", 1, 16),
]


@pytest.mark.parametrize(("make", "name", "low", "high"), RANGES)
def test_widths_out_of_range(make, name, low, high):
    make(**{name: low}), make(**{name: high})
    for bits in (low - 1, high + 1, 4.0, True):
        words = f"{name} must be a whole number from {low} to {high}; got {bits!r}"
        with pytest.raises(ValueError, match=words):
            make(**{name: bits})


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match="scale must be a positive number"):
        Binary(scale=scale)


def test_the_papers_widths():
    roles = wageubn.Widths().quantizers()
    bits = {name: quantizer.bits for name, quantizer in roles.items()}
    assert bits["weight"] == bits["activation"] == bits["error"] == bits["gradient"] == 8
    assert (bits["flag_error"], bits["batch_norm"], bits["update"]) == (9, 16, 24)
    step = 0.05 * roles["gradient"].deterministic().value(torch.linspace(-3, 3, 9))
    wanted = formulas.constant(np.linspace(-3, 3, 9, dtype=np.float32), 8, 15)
    wanted = formulas.direct(np.float32(0.05) * wanted, 15)
    np.testing.assert_array_equal(wageubn.Direct(15).value(step).numpy(), wanted)
    assert wageubn.Widths(update=16).quantizers()["update"] == wageubn.Direct(16)


def test_batch_norms_deviation_is_never_zero():
    variance = torch.tensor([0.0, 1e-12, 0.25, 2.0])
    found = wageubn.deviation(variance)
    wanted = [formulas.direct(np.sqrt(v), 16) + 2.0**-15 for v in variance.numpy()]
    assert found.tolist() == wanted and found.min() == 2.0**-15
