"""fxmem::absmax: exactly torch's codes, to nearest; right in expectation where they are drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import library
from torch._subclasses import FakeTensorMode

from fxmem import ops
from fxmem.ops.integer import absmax as module
from fxmem.ops.integer.absmax import absmax

from .test_ops_samples import DEVICES

ROOT = Path(__file__).parents[2]


def matrix(kind, device):
    x = torch.randn(33, 130, generator=torch.Generator().manual_seed(1))
    if kind == "ties":
        x = (x * 4).round() / 2
    elif kind == "zeros":
        x[0], x[:, 1] = 0, 0
    elif kind == "not finite":
        x[0, 0], x[5, 7] = float("nan"), float("-inf")
    return x.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "not finite"])
@pytest.mark.parametrize("factor", [None, "whole", "period"])
@pytest.mark.parametrize("by_column", [False, True])
def test_codes_are_the_formula(by_column, factor, kind, device):
    x = matrix(kind, device)
    count = x.size(0) if by_column else x.size(1) // (2 if factor == "period" else 1)
    given = None if factor is None else torch.rand(count).to(device) + 0.1
    codes, scale = absmax(x, given, by_column, 100)
    if given is not None:
        x = x * (given.view(-1, 1) if by_column else given.repeat(x.size(1) // count))
    top = x.abs().amax(0 if by_column else 1, keepdim=True)
    # By the number itself CUDA would multiply with its reciprocal.
    wanted = torch.where(top == 0, 1, top / top.new_full((), 100))
    torch.testing.assert_close(scale, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(codes, (x / wanted).round().nan_to_num(0).to(torch.int8))


def test_codes_of_nothing():
    for size, by_column in (((0, 4), True), ((4, 0), False), ((0, 4), False), ((4, 0), True)):
        codes, scale = absmax(torch.empty(size), None, by_column)
        assert codes.shape == size and scale.shape == ((1, size[1]) if by_column else (size[0], 1))
        assert (scale == 1).all()


@pytest.mark.parametrize(
    ("x", "factor", "levels", "sentence"),
    [
        (torch.zeros(3), None, 127, "x must be a float32 matrix; got 1 dimensions of"),
        (torch.zeros(3, 4).double(), None, 127, "x must be a float32 matrix; got 2 dimensions of"),
        (torch.zeros(3, 4), None, 128, "levels must be 1 to 127; got 128"),
        (torch.zeros(3, 4), torch.zeros(3), 127, "factor must be float32, one a column or period"),
    ],
)
def test_matrices_that_do_not_fit(x, factor, levels, sentence):
    with pytest.raises(RuntimeError, match=f"fxmem::absmax: {sentence}"):
        absmax(x, factor, False, levels)
    with pytest.raises(RuntimeError, match="fxmem::absmax: seed must be an int64 tensor of one"):
        absmax(torch.zeros(3, 4), None, False, 127, torch.zeros(2))


SIZES = ((33, 130), (1, 1), (5, 31), (300, 257), (0, 4), (4, 0))
FACTORS = (False, True)


def compare_draws():
    """The native kernel's codes are the reference's, whichever instructions it was compiled for."""
    for rows, columns in SIZES:
        x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
        for by_column in (False, True):
            for with_factor in FACTORS:
                factor = torch.rand(rows if by_column else columns) if with_factor else None
                factor = None if x.numel() == 0 else factor
                given = x, factor, by_column, 100, torch.tensor([-5 - rows])
                pairs = zip(absmax(*given), module._reference(*given), strict=True)
                assert all(torch.equal(*pair) for pair in pairs), (rows, columns, by_column)


@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_draws_are_the_references(isa):
    script = "import sys; sys.path.insert(0, 'tests'); from ops import test_absmax as t; "
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FXMEM_ISA": isa}
    command = [sys.executable, "-c", script + "t.compare_draws()"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("by_column", [False, True])
def test_drawn_codes_are_right_in_expectation(by_column, device):
    x = matrix("normal", device)
    seeds = (torch.tensor([s], device=device) for s in range(400))
    codes, scale = zip(*(absmax(x, None, by_column, 7, seed) for seed in seeds), strict=True)
    drawn = torch.stack(codes).float()
    assert drawn.abs().max() <= 7 and drawn.std(0).max() > 0.4
    off = drawn.mean(0) - x / scale[0]
    # A rounding's standard deviation is at most 1/2: of 4290 means of 400 none is 5 errors off.
    assert off.abs().max() < 5 * 0.5 / 400**0.5
    assert off.mean().abs() < 5 * 0.5 / (400 * x.numel()) ** 0.5


def test_whole_numbers_do_not_move():
    x = torch.arange(-7.0, 8).repeat(3, 1)
    codes, scale = absmax(x, None, False, 7, torch.tensor([1]))
    assert torch.equal(codes.float(), x) and (scale == 1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("transposed", [False, True])
def test_opcheck(transposed, device):
    x = matrix("normal", device)
    x = x.t() if transposed else x
    for by_column in (False, True):
        factor = torch.rand(x.size(0 if by_column else 1), device=device)
        for seed in (None, torch.tensor([3], device=device)):
            given = x, factor, by_column, 127, seed
            library.opcheck(torch.ops.fxmem.absmax, given)
            for found, told in zip(module._reference(*given), module._fake(*given), strict=True):
                assert (found.shape, found.stride()) == (told.shape, told.stride())


def test_a_seed_stays_on_its_device():
    with FakeTensorMode():  # which refuses to read a number
        x = torch.empty(33, 130, device="cuda")
        seed = torch.zeros(1, dtype=torch.int64, device="cuda")
        codes, scale = module._reference(x, None, False, 127, seed)
    assert codes.is_cuda and scale.is_cuda


def test_codes_have_no_derivative():
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="fxmem::absmax has no derivative"):
        absmax(x)[1].sum().backward()
