"""The sketching operators: unbiased, what the reference says, refused in a sentence."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import library

from fxmem import ops
from fxmem.ops.sketches import reference
from fxmem.policy import SKETCHES

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
SIZES = ((1, 1, 1), (7, 3, 5), (32, 8, 17), (33, 32, 1), (100, 10, 130), (256, 51, 48))
SIZES += ((511, 100, 3), (700, 3, 33), (1024, 205, 64), (2000, 1, 4))


def seed(value, device="cpu"):
    return torch.tensor([value], device=device)


def estimate(x, y, kind, rows, at):
    kept, key = ops.project(x, kind, rows, seed(at, x.device))
    return ops.follow(y, kind, rows, key).mT @ kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("kind", ops.KINDS)
def test_the_mean_of_many_draws_is_exact(kind, dtype, device):
    x, y = (torch.randn(20, width, device=device).to(dtype) for width in (4, 3))
    x, y = x * (1 + torch.arange(20, device=device)[:, None] / 10).to(dtype), y + x[:, :1]
    draws = torch.stack([estimate(x, y, kind, 6, 7919 * i) for i in range(2048)]).double()
    error = draws.mean(0) - y.double().mT @ x.double()
    assert error.norm() < 3 * (draws.var(0).sum() / 2048).sqrt()


def test_the_policy_knows_all_kinds():
    assert SKETCHES == ops.KINDS


@pytest.mark.parametrize("kind", reference.BASES)
@pytest.mark.parametrize("size", [1, 2, 7, 8, 33, 64])
def test_bases_are_orthonormal(kind, size):
    if kind == "hadamard":
        size = 1 << (size - 1).bit_length()
    basis = reference.BASES[kind](torch.arange(size), size)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(size).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("n, rows", [(5, 5), (700, 3), (1000, 333), (5000, 100)])
def test_blocks_cover_all_rows(n, rows):
    blocks = list(reference.blocks(n, rows))
    assert [b.first for b in blocks] == [0, *(b.last for b in blocks[:-1])]
    assert [b.top for b in blocks] == [0, *(b.bottom for b in blocks[:-1])]
    assert (blocks[-1].last, blocks[-1].bottom) == (n, rows)
    assert all(b.k > 0 and b.k <= b.n <= b.width and b.width % 32 == 0 for b in blocks)


@pytest.mark.parametrize("kind", reference.checks.KINDS)
def test_the_scaling_is_that_of_an_unbiased_estimate(kind):
    (block,) = reference.blocks(48, 12)
    squares = [reference.matrix(kind, block, i * 977).square().sum(0) for i in range(2000)]
    torch.testing.assert_close(
        torch.stack(squares).mean(0), torch.ones(48).double(), atol=0.12, rtol=0
    )


def assert_as_reference(sketch, kind, dtype, device="cpu"):
    for n, rows, width in SIZES:
        x = torch.randn(n, width, device=device).to(dtype)
        for at in (0, -0x123456789ABCDEF):
            got = sketch(x, kind, rows, seed(at, device))
            wanted = reference.sketch(x, kind, rows, seed(at, device))
            assert (got.shape, got.dtype, got.stride()) == (wanted.shape, dtype, wanted.stride())
            eps = max(torch.finfo(dtype).eps, 2e-6 if dtype != torch.float64 else 4e-6)
            scale = math.sqrt(n / rows) * 4 + 4
            torch.testing.assert_close(got, wanted, atol=eps * scale * 4, rtol=eps * 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("kind", reference.checks.KINDS)
def test_kernels_compute_what_the_reference_does(kind, dtype, device):
    assert_as_reference(ops.sketch, kind, dtype, device)


SWEEP = """
import sys; sys.path.insert(0, "tests")
import torch
from ops import test_sketch
for kind in test_sketch.reference.checks.KINDS:
    for dtype in test_sketch.DTYPES:
        test_sketch.test_kernels_compute_what_the_reference_does(kind, dtype, "cpu")
"""


@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_computes_it(isa):
    # One that this processor lacks falls back to a lesser one: then that is tested again.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FXMEM_ISA": isa}
    subprocess.run([sys.executable, "-c", SWEEP], cwd=ROOT, env=environment, check=True)


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "gaps": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "rows with gaps": lambda x: torch.cat([x, x], 1)[:, : x.size(1)],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "expanded": lambda x: x[:1].expand(x.size(0), -1),
    "one column": lambda x: x[:, :1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ops.KINDS)
def test_strides_change_nothing(kind, layout):
    view = LAYOUTS[layout](torch.randn(300, 19))
    got, plain = (ops.project(x, kind, 40, seed(5))[0] for x in (view, view.contiguous()))
    # Norms are sums, which torch adds up in another order.
    torch.testing.assert_close(got, plain, rtol=1e-5 if kind == "crs_norm" else 0, atol=0)


@pytest.mark.parametrize("kind", ops.KINDS)
def test_empty_tensors(kind):
    assert ops.project(torch.zeros(0, 5), kind, 0, seed(1))[0].shape == (0, 5)
    assert ops.project(torch.zeros(9, 0), kind, 3, seed(1))[0].shape == (3, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ops.KINDS)
def test_what_is_not_finite_stays_so_in_its_own_column(kind, value, dtype):
    x = torch.ones(64, 40, dtype=dtype)
    x[:, 2] = value
    kept, _ = ops.project(x, kind, 16, seed(3))
    assert not kept[:, 2].isfinite().any()
    if kind != "crs_norm":  # a row's norm takes in all of its columns
        assert kept[:, [0, 1, *range(3, 40)]].isfinite().all()


def test_half_precision_overflows_to_infinity():
    kept = ops.sketch(torch.full((64, 40), 6e4).half(), "crs", 4, seed(0))
    assert torch.equal(kept, torch.full_like(kept, math.inf))


@pytest.mark.parametrize("kind", reference.checks.KINDS)
def test_one_seed_one_projection(kind):
    x = torch.randn(64, 5)
    again, other = (ops.sketch(x, kind, 9, seed(at)) for at in (1, 2))
    assert torch.equal(ops.sketch(x, kind, 9, seed(1)), again)
    assert not torch.equal(again, other)


def test_all_rows_drawn_once_are_all_rows():
    x = torch.randn(300, 6)
    assert torch.equal(ops.sketch(x, "crs", 300, seed(4)), x)
    kept, places = ops.sample(torch.eye(50), 50, seed(4))
    assert torch.equal(places, torch.arange(50)) and torch.equal(kept, torch.eye(50))


def test_rows_are_drawn_in_proportion_to_their_norms():
    x = torch.diag(torch.tensor([0.0, 1.0, 3.0]))
    places = torch.cat([ops.sample(x, 2, seed(i))[1] for i in range(4000)])
    counts = places.bincount(minlength=3) / 8000
    torch.testing.assert_close(counts, torch.tensor([0.0, 0.25, 0.75]), atol=0.02, rtol=0)
    assert ops.sample(torch.zeros(5, 3), 2, seed(0))[0].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ops.KINDS)
def test_opcheck(kind, device):
    x = torch.randn(40, 6, device=device)
    for value in (x, x.mT.contiguous().mT, x.bfloat16()):
        args = (value, 7, seed(3, device))
        if kind == "crs_norm":
            library.opcheck(torch.ops.fxmem.sample.default, args)
        else:
            args = (value, kind, 7, seed(3, device))
            library.opcheck(torch.ops.fxmem.sketch.default, args)
            library.opcheck(torch.ops.fxmem.keyed_sketch.default, args)


X = torch.zeros(10, 4)
REFUSED = {
    "kind": ((X, "fourier", 3, seed(0)), "kind must be one of gaussian, .*; got fourier"),
    "dimensions": ((X[0], "crs", 3, seed(0)), "x must be a matrix; got 1"),
    "dtype": ((X.int(), "crs", 3, seed(0)), "x must be float32, bfloat16, float16 or float64; got"),
    "no rows": ((X, "crs", 0, seed(0)), "rows must be 1 to 10, the rows of x; got 0"),
    "rows": ((X, "crs", 11, seed(0)), "rows must be 1 to 10, the rows of x; got 11"),
    "seed": ((X, "crs", 3, torch.zeros(2).long()), "seed must be an int64 tensor of one element"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kernel", ["op", "reference", "meta"])
def test_refused_in_a_sentence(case, kernel):
    args, sentence = REFUSED[case]
    function = reference.sketch if kernel == "reference" else torch.ops.fxmem.sketch.default
    if kernel == "meta":
        args = tuple(a.to("meta") if torch.is_tensor(a) else a for a in args)
    with pytest.raises(RuntimeError, match=re.escape("fxmem::sketch: ") + sentence):
        function(*args)


def test_there_is_no_derivative():
    x = torch.randn(10, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="fxmem::sketch has no derivative: the gradient of a"):
        ops.sketch(x, "gaussian", 3, seed(0)).sum().backward()
