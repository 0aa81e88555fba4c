"""The activation operators' values, codes and bytes, against the reference and the truth."""

import mpmath as mp
import pytest
import torch
from activation_samples import (
    DTYPES,
    INVERTIBLE,
    SIZES,
    STEPWISE,
    coding,
    functions,
    layouts,
    numbers,
    patterns,
    spacing,
    true_slope,
    true_value,
    ulps,
    widths,
)
from activations.exact import CASES, definition

from fxmem import ops
from fxmem.activations import calculus
from fxmem.activations.table import TABLE
from fxmem.ops.activations.operators import reference

from .test_ops_samples import DEVICES, leaves

fxmem = torch.ops.fxmem
# By how much slopes may differ that one side evaluates in float32; times the incoming gradient.
FLOAT_SLOPE = {"from_output_backward": 5e-6, "gated_backward": 1e-6}


def unpacked(stream, bits, n):
    return ops.unpack(stream, [n], [1], bits, torch.uint8).int()


def assert_same_codes(sample, got, wanted, name):
    """Equal, but for the few draws on which a slope decides that is evaluated in float32."""
    x, drawn = sample.args[0], sample.op == "few_bit" and sample.args[-1] is not None
    if not (drawn and x.dtype.itemsize == 2):
        assert torch.equal(got, wanted), name
        return
    bits = sample.args[5]
    off = (unpacked(got, bits, x.numel()) - unpacked(wanted, bits, x.numel())).abs()
    assert off.max() <= 1 and off.sum() <= 1e-3 * x.numel() + 1, name


def assert_same_numbers(sample, got, wanted, name):
    """Equal to a unit in the last place, and a gradient also to the slope's own rounding."""
    if sample.op in ("lookup", "few_bit_backward"):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True, msg=name)
        return
    double = got.dtype == torch.float64  # torch's erfc is good to a hundred units
    bound = spacing(wanted.double().nan_to_num(), got.dtype) * (500 if double else 1)
    if sample.op.endswith("backward"):
        scale = sample.args[0].double().abs()
        scale = scale * sample.args[2].abs().clamp(1) if sample.op.startswith("gated") else scale
        bound += scale * (1e-14 if double else FLOAT_SLOPE[sample.op])
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    assert (same | ((got.double() - wanted.double()).abs() <= bound)).all(), name


def assert_as_reference(sample, got):
    wanted, name = sample(getattr(reference, sample.op)), f"{sample.op} {sample.name}"
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name
        assert_same = assert_same_codes if a.dtype == torch.uint8 else assert_same_numbers
        assert_same(sample, a, b, name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [functions, widths, layouts])
def test_kernels_equal_the_reference(samples, device):
    for sample in samples(device):
        assert_as_reference(sample, sample())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_values_are_within_a_unit_in_the_last_place(dtype, device):
    x = patterns(dtype).to(device)
    for row, values in CASES:
        y, truth = fxmem.few_bit(x, *coding(row.name, values))[0], true_value(row.name, values, x)
        assert ulps(y, truth) <= 1, row.name
        gate = fxmem.gated(x, torch.ones_like(x), row.name, list(values))
        assert ulps(gate, truth) <= 1, row.name
        assert not y[x.isfinite()].isnan().any() and y[x.isnan()].isnan().all(), row.name
        if (row.name, values) in INVERTIBLE:
            assert torch.equal(
                fxmem.from_output(x, row.name, list(values))[0].nan_to_num(), y.nan_to_num()
            )


@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the reference rounds each float64 step")
def test_float64_values_are_within_a_unit_in_the_last_place():
    x = torch.cat([torch.linspace(-7.9, 8.3, 80), torch.randn(20) * 1e-3]).double()
    for row, values in CASES:
        y = fxmem.few_bit(x, *coding(row.name, values))[0].tolist()
        with mp.workdps(80):
            exact = [definition(row, values)(mp.mpf(point)) for point in x.tolist()]
            off = [float(abs(a - b)) for a, b in zip(y, exact, strict=True)]
        units = spacing(torch.tensor([float(v) for v in exact], dtype=torch.float64), torch.float64)
        assert (torch.tensor(off) <= units).all(), row.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [*SIZES, 1000003])
def test_bytes_are_exact(n, device):
    x = torch.randn(n, device=device)
    for bits in range(1, 9):
        code = coding("gelu", bits=bits)
        for stream in (fxmem.classify(x, code[2], bits), fxmem.few_bit(x, *code)[1]):
            assert (stream.dtype, stream.nbytes) == (torch.uint8, -(-bits * n // 8))
    assert fxmem.from_output(x, "gelu", [])[1].nbytes == -(-n // 8)
    assert fxmem.from_output(x, "tanh", [])[1].nbytes == 0


def test_codes_are_a_stream_of_the_lowest_bits_first():
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0, 2.0, 0.5, -0.5, -2.0, 0.5])
    assert fxmem.classify(x, [-1.0, 0.0, 1.0], 2).tolist() == [0b11100100, 0b00011011, 0b10]


@pytest.mark.parametrize("device", DEVICES)
def test_codes_count_the_borders_below(device):
    borders = [-1.5, -0.25, -0.25, 0.1, 2.0]  # no power of two, one twice, one that no dtype holds
    for dtype in DTYPES:
        at = torch.tensor(borders, dtype=dtype)
        ends = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0], dtype=dtype)
        x = torch.cat(
            [at, at * (1 + torch.finfo(dtype).eps), -at, ends, torch.randn(2000).to(dtype)]
        )
        for even in (False, True):
            v = x.double().abs() if even else x.double()
            wanted = sum((v > border).int() for border in borders)
            found = fxmem.classify(x.to(device), borders, 3, even)
            assert torch.equal(unpacked(found.cpu(), 3, len(x)), wanted), (dtype, even)


@pytest.mark.parametrize("device", DEVICES)
def test_lookup_gives_levels_and_nan_for_codes_without_one(device):
    x = torch.arange(8.0).repeat(200).to(device)
    codes = fxmem.classify(x, [v + 0.5 for v in range(7)], 3)
    for dtype in DTYPES:
        levels = [0.1 * v for v in range(5)]
        found = fxmem.lookup(codes, levels, 3, [1600], [1], dtype)[:8].cpu()
        assert torch.equal(found[:5], torch.tensor(levels, dtype=torch.float64).to(dtype))
        assert found[5:].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("drawn", [False, True])
def test_unbiased_codes_are_right_on_average(drawn, device):
    """And nearest codes are not: what shows the one shows that the test can fail."""
    points, draws = torch.linspace(-5.5, 5.5, 45), 20_000
    x, worst = points.repeat(draws).to(device), 0.0
    for name in sorted({row.name for row, _ in CASES if not calculus.step_slopes(row)}):
        code = coding(name, bits=2, drawn=drawn)
        seed = torch.tensor([123], device=device) if drawn else None
        codes = fxmem.few_bit(x, *code, seed)[1]
        slopes = fxmem.lookup(codes, code[3], 2, x.shape, [1], torch.float32).cpu().view(draws, -1)
        truth = true_slope(name, TABLE[name].defaults, points).float()
        inside = (truth >= min(code[3])) & (truth <= max(code[3]))
        off = (slopes.double().mean(0) - truth).abs()[inside]
        deviation = slopes.double().std(0)[inside] / draws**0.5
        worst = max(worst, (off / (deviation + 1e-5)).max().item())
    assert worst <= 4 if drawn else worst > 100


@pytest.mark.parametrize("device", DEVICES)
def test_stepwise_codes_are_exact_and_one_bit_where_there_are_two_slopes(device):
    for name, values in STEPWISE:
        code = coding(name, values)
        assert code[4] == 1
        for dtype in DTYPES:
            x = numbers(3077, dtype, torch.Generator().manual_seed(3)).to(device)
            codes = fxmem.few_bit(x, *code)[1]
            found = fxmem.lookup(codes, code[3], 1, x.shape, [1], torch.float64)
            number = ~x.isnan()
            truth = true_slope(name, values, x)[number]
            assert torch.equal(found[number], truth), (name, dtype)
