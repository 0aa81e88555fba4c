"""Native activation kernels and fake kernels against the reference, on every sample."""

import pytest
import torch
from activation_samples import layouts, sweep

from fxmem import ops
from fxmem.ops import activations_reference as reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
CODED = ("classify", "lookup", "few_bit_backward")


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


def kind(x):
    return x.shape, x.dtype, x.stride(), x.device


def close(got, wanted, op):
    """Equal up to the rounding of the last places; integers and what codes select exactly."""
    if op in CODED or not got.is_floating_point():
        return torch.equal(got, wanted)
    eps = torch.finfo(got.dtype).eps
    # From the output, lanes evaluate polynomials that were fitted to 2e-6.
    fitted = 3e-6 if op == "from_output_backward" and got.dtype != torch.float64 else 0
    # The reference computes in float64: of such results it rounds every step.
    steps = 8 if got.dtype == torch.float64 else 1
    return torch.allclose(got, wanted, rtol=steps * eps, atol=8 * eps + fitted)


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_equal_the_reference(device):
    for sample in sweep(device):
        got, wanted = leaves(sample()), leaves(sample(getattr(reference, sample.op)))
        for a, b in zip(got, wanted, strict=True):
            assert kind(a) == kind(b), sample.name
            assert close(a, b, sample.op), sample.name


def test_fake_kernels_tell_what_the_kernels_return():
    for sample in sweep():
        with torch._subclasses.FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) if torch.is_tensor(a) else a for a in sample.args]
            told = getattr(torch.ops.fxmem, sample.op).default(*fake)
        for a, b in zip(leaves(told), leaves(sample()), strict=True):
            assert kind(a) == kind(b), sample.name


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for sample in layouts(device, requires_grad=True):
        operator = getattr(torch.ops.fxmem, sample.op).default
        torch.library.opcheck(operator, sample.args, raise_exception=True)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1_000_003])
def test_codes_take_exactly_their_bits(n, bits):
    codes = ops.classify(torch.zeros(n), [0.0], bits)
    assert codes.dtype == torch.uint8 and codes.numel() == -(-n * bits // 8)
    y, codes = ops.few_bit(torch.zeros(n), "gelu", [], [0.0], [0.0, 1.0], bits)
    assert codes.numel() == -(-n * bits // 8) and y.numel() == n
    _, branch = ops.from_output(torch.zeros(n), "gelu")
    assert branch.numel() == -(-n // 8)
    assert ops.from_output(torch.zeros(n), "tanh")[1].numel() == 0


def test_codes_are_a_stream_of_the_lowest_bits_first():
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0, 2.0, 0.5, -0.5, -2.0, 0.5])
    # Codes 0 1 2 3 3 2 1 0 | 2, two bits each.
    assert ops.classify(x, [-1.0, 0.0, 1.0], 2).tolist() == [0b11100100, 0b00011011, 0b10]


def test_a_border_belongs_to_the_interval_below_it():
    third = 1 / 3  # which no float is: the nearest float32 lies above it
    x = torch.tensor([0.0, -0.0, third, torch.inf, -torch.inf, torch.nan], dtype=torch.float32)
    assert ops.unpack(ops.classify(x, [0.0, third], 2), (6,), (1,), 2, torch.uint8).tolist() == [
        *(0, 0, 2, 2, 0, 0)
    ]
    exact = torch.tensor([third], dtype=torch.float64)
    assert ops.classify(exact, [0.0, third], 2).tolist() == [1]
