"""The gradients of a norm from its output: the native kernels, the reference, and float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import library

from fxmem import ops
from fxmem.ops.norms.backward import _reference as reference
from fxmem.ops.norms.backward import norm_backward

from .test_ops_samples import DEVICES

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# outer, groups, depth, span: fewer, as many and more than fit a tile, a vector, a warp, a grid
SIZES = (
    *((1, 1, 1, 1), (5, 1, 7, 1), (70, 1, 24, 1), (13, 1, 513, 1), (6, 1, 1030, 1)),
    *((300, 1, 40, 1), (3, 4, 6, 1), (2, 4, 6, 35), (3, 2, 5, 3), (5, 1, 3, 1100)),
    *((7, 8, 3, 64), (2, 600, 1, 2)),
)
EMPTY = ((0, 1, 5, 1), (0, 2, 3, 4), (3, 1, 5, 0))
NAMES = (
    *("grad", "output", "rstd", "weight", "bias", "at", "side", "channels", "groups", "centred"),
    *("least", "steepest", "sums"),
)


def sample(size, dtype=torch.float32, affine="weight bias", places=0, device="cpu", **changes):
    """The arguments; every third channel, or fewer, has a place, and no weight."""
    outer, groups, depth, span = size
    draw = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def numbers(*shape, dtype=wide):
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    channels = groups * depth
    weight, bias = numbers(channels) * 0.2 + 1, numbers(channels) * 0.3
    at = torch.randperm(channels, generator=draw)[:places]
    weight[at] = 0
    given = {
        "grad": numbers(outer, channels, span, dtype=dtype),
        "output": numbers(outer, channels, span, dtype=dtype),
        "rstd": numbers(outer, groups).abs() + 0.5,
        "weight": weight if "weight" in affine else None,
        "bias": bias if "bias" in affine else None,
        "at": at if places else None,
        "side": numbers(outer, len(at), span, dtype=dtype) if places else None,
    }
    given = {k: None if v is None else v.to(device) for k, v in given.items()}
    rest = (channels, groups, True, 2.0**-40, 11.3, True)
    return given | dict(zip(NAMES[7:], rest, strict=True)) | changes


def in_float64(given):
    wide = {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in given.items()
    }
    return reference(*wide.values())


def compare(given, kernel):
    """Within a few roundings of what a row or a channel has at most."""
    found, wanted = kernel(*given.values()), reference(*given.values())
    for value, like, exact in zip(found, wanted, in_float64(given), strict=True):
        assert (value.shape, value.dtype, value.stride()) == (like.shape, like.dtype, like.stride())
        eps = torch.finfo(value.dtype).eps
        limit = 8 * max(eps, 2**-23 if value.dtype != torch.float64 else eps)
        size = exact.abs().amax().item() + 1 if exact.numel() else 1
        torch.testing.assert_close(value.double(), exact, rtol=limit, atol=limit * size)


def compare_all(kernel=norm_backward, device="cpu", dtypes=DTYPES, sizes=SIZES):
    for dtype in dtypes:
        for size in sizes:
            places = (size[1] * size[2] + 2) // 3
            compare(sample(size, dtype, device=device), kernel)
            compare(sample(size, dtype, places=places, device=device), kernel)
            compare(sample(size, dtype, "", device=device, centred=False), kernel)
            compare(sample(size, dtype, "bias", device=device, sums=False), kernel)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_the_references(dtype, device):
    compare_all(device=device, dtypes=(dtype,), sizes=SIZES + EMPTY)


@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    script = "import sys; sys.path.insert(0, 'tests'); from ops import test_norm_backward as t; "
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FXMEM_ISA": isa}
    command = [sys.executable, "-c", script + "t.compare_all()"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [norm_backward, reference])
def test_is_autograds(kernel, groups):
    """Of a norm written out, differentiated in float64."""
    draw = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(6, 12, 5, dtype=torch.float64, generator=draw) for _ in range(2))
    weight, bias = (torch.rand(12, dtype=torch.float64, generator=draw) + 0.5 for _ in range(2))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    rows = x.view(6, groups, -1)
    rstd = (rows.var(-1, correction=0, keepdim=True) + 0.1).rsqrt()
    x_hat = ((rows - rows.mean(-1, keepdim=True)) * rstd).view_as(x)
    y = x_hat * weight[:, None] + bias[:, None]
    wanted = torch.autograd.grad(y, leaves, grad)
    kept = [t.detach() for t in (y, rstd, weight, bias)]
    found = kernel(grad, *kept, None, None, 12, groups, True, 0.0, 1e30, True)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_strides_do_not_matter(device):
    given = sample((6, 2, 4, 5), device=device)
    wanted = norm_backward(*given.values())
    for name in ("grad", "output"):
        turned = given[name].permute(2, 0, 1).contiguous().permute(1, 2, 0)
        found = norm_backward(*(given | {name: turned}).values())
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert found[0].is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("span", [1, 6])
def test_what_is_not_finite_stays_in_its_row_and_channel(span, bad, dtype, device):
    given = sample((9, 1, 20, span), dtype, device=device)
    given["output"][4, 3] = bad
    of_input, of_weight, of_bias = norm_backward(*given.values())
    row = torch.arange(9, device=device) == 4
    assert not of_input[row].isfinite().any() and of_input[~row].isfinite().all()
    assert not of_weight[3].isfinite() and of_weight.isfinite().sum() == 19
    assert of_bias.isfinite().all()


@pytest.mark.parametrize("size", [(800, 1, 300, 1), (40, 4, 3, 900)], ids=str)
def test_threads_give_the_same_result(size):
    given, threads = sample(size), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(norm_backward(*given.values()))
    finally:
        torch.set_num_threads(threads)
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, results[0], strict=True))


def test_long_sums_do_not_lose_small_terms():
    """A hundred thousand equal terms: one after the other in float32 they are off by 1.4e-4."""
    given = sample((100_000, 1, 16, 1))
    given |= {"grad": torch.full((100_000, 16, 1), 0.1), "output": torch.ones(100_000, 16, 1)}
    given |= {"weight": torch.ones(16), "bias": torch.zeros(16)}
    for total in norm_backward(*given.values())[1:]:
        torch.testing.assert_close(total, torch.full((16,), 10_000.0), rtol=3e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"output": torch.zeros(2, 8, 1, dtype=torch.int32)}, "output must be float32, bfloat16"),
        ({"groups": 3}, "output must be whole rows of whole channels; got 16 elements for 4 rows"),
        ({"channels": 0}, "output must be whole rows of whole channels"),
        ({"grad": torch.zeros(15)}, "grad must be 16 of"),
        ({"grad": torch.zeros(16, dtype=torch.float64)}, "grad must be 16 of"),
        ({"rstd": torch.ones(4, dtype=torch.bfloat16)}, "rstd must be 4 of"),
        ({"weight": torch.ones(7)}, "weight must be 8 of"),
        ({"bias": torch.ones(8, dtype=torch.float64)}, "bias must be 8 of"),
        ({"side": None}, "at and side must be given together; got one of them"),
        ({"side": torch.zeros(3)}, "side must be 4 of"),
        ({"at": torch.zeros(2, dtype=torch.int32)}, "at must be 2 of"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [norm_backward, reference])
def test_refusals(call, change, sentence):
    given = sample((2, 2, 4, 1), places=2) | change
    with pytest.raises(RuntimeError, match=f"fxmem::norm_backward: {sentence}"):
        call(*given.values())


@pytest.mark.parametrize("at", [-1, 8])
@pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")
def test_channels_that_do_not_exist(at):
    given = sample((2, 2, 4, 1), places=1, at=torch.tensor([at]))
    with pytest.raises(RuntimeError, match=f"at must be 0 to 7; got {at}"):
        norm_backward(*given.values())


@pytest.mark.parametrize("places", [0, 3])
@pytest.mark.parametrize("size", [(5, 1, 12, 1), (2, 3, 4, 7)], ids=str)
def test_opcheck(size, places):
    given = sample(size, places=places)
    library.opcheck(torch.ops.fxmem.norm_backward.default, tuple(given.values()))


def test_no_derivative():
    given = sample((2, 1, 4, 1))
    given["grad"].requires_grad_()
    with pytest.raises(RuntimeError, match="fxmem::norm_backward has no derivative: it is itself"):
        norm_backward(*given.values())[0].sum().backward()
