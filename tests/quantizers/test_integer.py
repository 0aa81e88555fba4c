"""Quantizers against their published formulas: values, storage, zero, ties, powers of two."""

import itertools
import math

import numpy as np
import pytest
import torch

from fxmem import ops
from fxmem.ops.integer import storage
from fxmem.quantizers import Binary, Packed, XnorWeight, dorefa, magnitude, wageubn

from . import formulas
from .samples import CASES, DTYPES, IDS, QUANTIZERS, inputs


@pytest.mark.parametrize(("quantizer", "formula"), CASES, ids=IDS)
def test_values_are_the_formulas(quantizer, formula):
    for name, x in inputs():
        found, wanted = quantizer.value(torch.from_numpy(x)).numpy(), formula(x)
        assert np.isfinite(found).all(), name
        assert found.dtype == wanted.dtype == np.float32
        np.testing.assert_array_equal(found, wanted, err_msg=name)


@pytest.mark.parametrize("quantizer", [dorefa.WeightBit(), XnorWeight()], ids=str)
def test_scaled_signs(quantizer):
    """Their mean adds up in another order than numpy's, so that its last digits differ."""
    formula = {dorefa.WeightBit: lambda w: formulas.dorefa_weight(w, 1)}
    for name, x in inputs():
        found = quantizer.value(torch.from_numpy(x)).numpy()
        wanted = formula.get(type(quantizer), formulas.xnor_weight)(x)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted), err_msg=name)
        np.testing.assert_allclose(found, wanted, rtol=12 * 2.0**-23, err_msg=name)


def test_xnor_scales_by_hand():
    w = torch.tensor([[1.0, -3.0], [0.0, -0.5]])
    assert XnorWeight().value(w).tolist() == [[2.0, -2.0], [0.25, -0.25]]
    assert XnorWeight(filters=1).value(w).tolist() == [[0.5, -1.75], [0.5, -1.75]]
    assert dorefa.WeightBit().value(w).tolist() == [[1.125, -1.125], [1.125, -1.125]]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_packed_is_the_value(quantizer, dtype):
    for name, x in inputs():
        largest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
        x = torch.from_numpy(x).clamp(-largest, largest).to(dtype)
        if isinstance(quantizer, wageubn.Direct):
            x = x[quantizer.value(x).abs() < 1]
        packed = quantizer.pack(x)
        assert torch.equal(packed.values(), quantizer.value(x)), name
        assert packed.codes.nbytes == storage.integer_bytes(x.numel(), quantizer.bits)
        assert packed.values().dtype == dtype
        again = Packed.from_dict(packed.to_dict())
        assert torch.equal(again.values(), packed.values())


BITS = {1: Binary(), 2: dorefa.weight(2), 8: wageubn.weight(8), 9: wageubn.Flag(8)}


@pytest.mark.parametrize(("bits", "quantizer"), BITS.items())
def test_claimed_bits_are_stored(bits, quantizer):
    packed = quantizer.pack(torch.randn(64, 32))
    assert packed.bits == bits and packed.codes.nbytes == 64 * 32 * bits // 8
    assert packed.nbytes <= packed.codes.nbytes + 4


def test_eight_bits_lie_ready_for_arithmetic():
    x = torch.randn(5, 7)
    packed = wageubn.Shift(8).pack(x)
    assert packed.codes.dtype == torch.int8 and packed.codes.shape == x.shape
    assert torch.equal(packed.codes.float() * packed.scale, wageubn.Shift(8).value(x))


STEADY = [q for q in QUANTIZERS if isinstance(q, (wageubn.Direct, wageubn.AllDirect, Binary))]
STEADY += [wageubn.Shift(k) for k in (3, 8)] + [wageubn.Flag(k) for k in (3, 4, 8)]
STEADY += [dorefa.Activation(k) for k in (1, 2, 8)]


@pytest.mark.parametrize("quantizer", STEADY, ids=str)
def test_idempotent(quantizer):
    for name, x in inputs():
        once = quantizer.value(torch.from_numpy(x))
        assert torch.equal(quantizer.value(once), once), name


@pytest.mark.parametrize("quantizer", [wageubn.Shift(16), wageubn.Flag(12)], ids=str)
def test_idempotent_unless_rounding_halves_the_magnitude(quantizer):
    kept = 0
    for name, x in inputs():
        x = torch.from_numpy(x)
        once = quantizer.value(x)
        if magnitude(once) == magnitude(x):
            kept += 1
            assert torch.equal(quantizer.value(once), once), name
    assert kept >= 12


@pytest.mark.parametrize("quantizer", [dorefa.WeightBit(), XnorWeight()], ids=str)
def test_scaled_signs_are_idempotent(quantizer):
    """Their scale is the mean of equal magnitudes, which float32 would round for some counts."""
    for columns in (3, 33, 4099):
        once = quantizer.value(torch.randn(16, columns))
        assert torch.equal(quantizer.value(once), once)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (2, 1, 3)])
def test_shapes(quantizer, shape):
    if isinstance(quantizer, XnorWeight) and len(shape) == 1:
        pytest.skip("a weight has two dimensions or more")
    x = torch.rand(shape, requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == quantizer.pack(x / 2).values().shape == shape


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_strides(quantizer):
    x = torch.rand(6, 8, 4).transpose(0, 2)
    views = {"dense": x, "gaps": x[:, ::2], "expanded": x[:, :1].expand(-1, 3, -1)}
    for name, view in views.items():
        # A mean adds up in memory order, so that its last digit depends on the strides.
        bound = 2.0**-22 if quantizer.grid == "sign" else 0
        found, wanted = quantizer.value(view), quantizer.value(view.contiguous())
        torch.testing.assert_close(found, wanted, rtol=bound, atol=0, msg=name)
        assert torch.equal(quantizer.pack(view / 2).values(), quantizer.value(view / 2)), name


@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if q.bits < 16], ids=str)
def test_half_precision_is_computed_in_single(quantizer):
    for dtype in DTYPES[2:]:
        x = torch.randn(9, 11).to(dtype)
        assert torch.equal(quantizer.value(x), quantizer.value(x.float()).to(dtype))


def test_a_magnitude_is_the_nearest_power_of_two():
    for power in range(-126, 128):
        for factor in (1.0, 0.7072, 1.4142, 1.4143, 0.7071):
            x = torch.tensor(2.0**power * factor, dtype=torch.float64)
            wanted = 2.0 ** min(max(round(math.log2(x)), -126), 127)
            assert magnitude(x).item() == wanted
    assert magnitude(torch.zeros(3)) == 1
    assert magnitude(torch.tensor([1.0, math.inf])).isnan()


def test_the_largest_numbers_saturate():
    x = torch.full((3,), torch.finfo(torch.float32).max)
    for quantizer in (wageubn.Shift(8), wageubn.Flag(8), wageubn.Constant(stochastic=False)):
        assert quantizer.value(x).isfinite().all()


@pytest.mark.parametrize("bits", range(1, 25))
@pytest.mark.parametrize("signed", [False, True])
def test_integers_of_any_width(bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.randint(low, low + 2**bits, (5, 13)).t()
    codes[0, :2] = torch.tensor([low, low + 2**bits - 1])
    stored = storage.store(codes, bits, signed)
    assert stored.nbytes == storage.integer_bytes(65, bits)
    layout = codes.shape, ops.memory_stride(codes)
    assert torch.equal(storage.load(stored, bits, signed, *layout).long(), codes)


def test_grids_have_as_many_values_as_codes():
    x = torch.linspace(-2, 2, 4001).reshape(1, -1)
    for k, quantizer in itertools.product((2, 3), (dorefa.weight, dorefa.Activation)):
        assert len(quantizer(k).value(x).unique()) == 2**k
    assert len(wageubn.weight(3).value(x).unique()) == 7  # the lowest code has no use


EVERYWHERE = [q for q in QUANTIZERS if q.grid not in ("sign", "symmetric")] + [Binary()]


@pytest.mark.cuda
@pytest.mark.parametrize("quantizer", EVERYWHERE, ids=str)
def test_cuda_has_the_same_bits(quantizer):
    """But where a mean or tanh comes in, whose last digits are the device's own."""
    for name, x in inputs():
        x = torch.from_numpy(x) / 4
        assert torch.equal(quantizer.value(x.cuda()).cpu(), quantizer.value(x)), name


@pytest.mark.parametrize("quantizer", [Binary(), Binary(stochastic=True), XnorWeight()], ids=str)
def test_what_is_no_number_stays_none(quantizer):
    x = torch.tensor([[1.0, math.nan, -2.0]])
    assert quantizer.value(x)[0, 1].isnan()
    with pytest.raises((OverflowError, ValueError), match="nan"):
        Binary().pack(x)
