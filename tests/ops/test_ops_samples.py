"""Native kernels, fake kernels and decompositions against the reference, on every sample."""

import pytest
import torch
from samples import layouts, sweep
from torch import library

from fxmem import ops
from fxmem.ops import reference
from fxmem.ops.decomposition import DECOMPOSITIONS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


def assert_same(got, wanted, name):
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name
        assert torch.equal(a, b), name


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_equal_the_reference_bit_for_bit(device):
    for sample in sweep(device):
        assert_same(sample(), sample(getattr(reference, sample.op)), sample.name)


def test_decompositions_equal_the_reference_bit_for_bit():
    compared = 0
    for sample in sweep():
        got = sample(DECOMPOSITIONS[getattr(torch.ops.fxmem, sample.op).default])
        if got is NotImplemented:
            continue
        compared += 1
        for a, b in zip(leaves(got), leaves(sample(getattr(reference, sample.op))), strict=True):
            assert torch.equal(a, b), sample.name
    assert compared > 200


def test_fake_kernels_tell_what_the_kernels_return():
    for sample in sweep():
        with torch._subclasses.FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) if torch.is_tensor(a) else a for a in sample.args]
            told = getattr(torch.ops.fxmem, sample.op).default(*fake)
        for a, b in zip(leaves(told), leaves(sample()), strict=True):
            wanted = (b.shape, b.dtype, b.stride(), b.device)
            assert (a.shape, a.dtype, a.stride(), a.device) == wanted, sample.name


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for sample in layouts(device):
        operator = getattr(torch.ops.fxmem, sample.op).default
        library.opcheck(operator, sample.args, raise_exception=True)


def test_round_trip_keeps_layout_and_order():
    for sample in layouts():
        if sample.op == "pack":
            x, bits = sample.args
            back = ops.unpack(sample(), x.shape, ops.memory_stride(x), bits, x.dtype)
            assert torch.equal(back, x), sample.name
