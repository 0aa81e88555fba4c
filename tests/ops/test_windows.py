"""What integer layers read: a convolution's windows, channels behind, signs in one pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import library

from fxmem import ops
from fxmem.ops.integer.channels_last import channels_last
from fxmem.ops.integer.signs import signs
from fxmem.ops.integer.windows import _reference, windows

from .test_ops_samples import DEVICES

ROOT = Path(__file__).parents[2]
# kernel, stride, spread, before, dilation, outs
PLACES = (
    ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (7, 6)),
    ((3, 2), (2, 1), (1, 1), (0, 3), (1, 2), (3, 9)),
    ((2, 3), (1, 1), (2, 3), (1, -1), (2, 1), (12, 14)),
    ((1, 4), (1, 3), (1, 1), (0, 9), (1, 1), (7, 8)),
    ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (0, 6)),
)


def codes(dtype=torch.int8, device="cpu", channels=8):
    low = torch.iinfo(dtype).min
    draw = torch.Generator().manual_seed(0)
    size = 2, 7, 6, channels
    return torch.randint(low, low + 256, size, dtype=dtype, generator=draw).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_windows_are_the_references(place, groups, device):
    x = codes(device=device)
    assert torch.equal(windows(x, -7, *place, groups), _reference(x, -7, *place, groups))
    turned = x.transpose(1, 2)
    assert torch.equal(windows(turned, 3, *place), windows(turned.contiguous(), 3, *place))


def test_windows_are_what_a_convolution_reads():
    x = codes(torch.uint8)
    found = windows(x, 0, (3, 2), (2, 1), (1, 1), (1, 0), (1, 2), (4, 4))
    wanted = F.unfold(x.permute(0, 3, 1, 2).float(), (3, 2), (1, 2), (1, 0), (2, 1))
    wanted = wanted.unflatten(1, (8, 6)).permute(0, 3, 2, 1).reshape(1, -1, 48)
    assert torch.equal(found.float(), wanted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"x": torch.zeros(2, 3, 4)},
            "x must be .batch, height, width, channels. of int8 or uint8",
        ),
        ({"fill": 128}, "fill must be -128 to 127; got 128"),
        ({"kernel": (0, 3)}, "kernel must be 2 numbers of at least 1; got"),
        ({"stride": (1,)}, "stride must be 2 numbers of at least 1; got"),
        ({"before": (1, 1, 1)}, "before must be 2 numbers; got"),
        ({"outs": (-1, 2)}, "outs must be 2 numbers of at least 0; got"),
        ({"groups": 3}, "groups must be a divisor of 8 channels; got 3"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [windows, _reference])
def test_windows_that_do_not_fit(call, change, sentence):
    names = "x", "fill", "kernel", "stride", "spread", "before", "dilation", "outs", "groups"
    given = dict(zip(names, (codes(), 0, *PLACES[0], 1), strict=True)) | change
    with pytest.raises(RuntimeError, match=f"fxmem::windows: {sentence}"):
        call(*given.values())


MATRICES = ((5, 64), (9, 37), (17, 1), (8, 576), (3, 0), (0, 4), (1, 7))


def compare_signs(device="cpu", signs=signs):
    for rows, columns in MATRICES:
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(rows, columns, dtype=dtype)
            x.view(-1)[::5] = 0.0
            x.view(-1)[1::7], x.view(-1)[2::11] = 1.0, torch.nan
            bits, passes, magnitude = signs(x.to(device))
            assert torch.equal(bits, ops.pack(x.to(device) >= 0))
            assert torch.equal(passes, ops.pack(x.to(device).abs() <= 1))
            mean = x.abs().mean(1) if columns else x.new_zeros(rows)
            limits = {"rtol": 16 * torch.finfo(dtype).eps, "atol": 0, "equal_nan": True}
            torch.testing.assert_close(magnitude.cpu(), mean, **limits)


@pytest.mark.parametrize("device", DEVICES)
def test_signs(device):
    compare_signs(device)


@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_signs_of_every_instruction_set(isa):
    script = "import sys; sys.path.insert(0, 'tests'); from ops import test_windows as t; "
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FXMEM_ISA": isa}
    command = [sys.executable, "-c", script + "t.compare_signs()"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "size", [(3, 5, 7, 9), (2, 64, 8, 8), (1, 33, 40, 1), (0, 3, 4, 5)], ids=str
)
def test_channels_last(size, dtype, device):
    x = (torch.randn(size) * 50).to(device, dtype)
    for it in (x, x.transpose(2, 3)):
        found = channels_last(it)
        assert torch.equal(found, it.permute(0, 2, 3, 1)) and found.is_contiguous()
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert channels_last(last).data_ptr() == last.data_ptr()


def test_what_does_not_fit():
    with pytest.raises(
        RuntimeError, match="fxmem::channels_last: x must be of 4 dimensions; got 3"
    ):
        channels_last(torch.zeros(3, 4, 5))
    with pytest.raises(RuntimeError, match="fxmem::signs: x must be a float32 or float64 matrix"):
        signs(torch.zeros(3, 4, dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"fxmem::signs: x must be .*; got 3 dimensions of"):
        signs(torch.zeros(3, 4, 5))


def test_opcheck():
    library.opcheck(torch.ops.fxmem.signs, (torch.randn(9, 37),))
    library.opcheck(torch.ops.fxmem.channels_last, (torch.randn(2, 3, 4, 5),))
    library.opcheck(torch.ops.fxmem.windows, (codes(), -3, *PLACES[2], 2))
