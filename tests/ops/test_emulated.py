"""The CUDA kernels, gone through by a processor, thread after thread: see emulator.h.

What this cannot show: memory that is not coalesced, occupancy, and what nvcc makes of the sources.
"""

import fcntl

import pytest
import torch
from activation_samples import coding, few_bit, functions, widths
from activation_samples import layouts as activation_layouts
from samples import layouts, sweep

from fxmem.ops import reference
from fxmem.ops.integer.signs import signs
from fxmem.ops.integer.windows import windows
from fxmem.ops.integer.xnor import pack_rows, xnor_mm
from fxmem.ops.sketches.reference import checks as sketches

from . import (
    emulated,
    test_activation_ops,
    test_norm_backward,
    test_shrink,
    test_sketch,
    test_windows,
    test_xnor,
)
from .test_ops_samples import assert_same

pytestmark = pytest.mark.skipif(bool(emulated.missing()), reason=emulated.missing())


@pytest.fixture(scope="session")
def library(tmp_path_factory, testrun_uid):
    """The library, built once by whichever process of this run comes first."""
    folder = tmp_path_factory.getbasetemp().parent / f"emulated-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "libemulated.so"
        torch.ops.load_library(built if built.exists() else emulated.build(folder))
    return torch.ops.fxmem_emulated


@pytest.fixture(params=["forwards", "backwards"])
def kernels(request, library, monkeypatch):
    """The operators, threads in this order."""
    if request.param == "backwards":
        monkeypatch.setenv("EMULATE_BACKWARDS", "1")
    return library


def run(kernels, sample):
    return sample(getattr(kernels, sample.op).default)


def test_codecs_and_masks_bit_for_bit(library):
    for sample in sweep():
        wanted = sample(getattr(reference, sample.op))
        assert_same(run(library, sample), wanted, sample.name)


def test_codecs_and_masks_in_any_order(kernels):
    for sample in layouts():
        wanted = sample(getattr(reference, sample.op))
        assert_same(run(kernels, sample), wanted, sample.name)


@pytest.mark.parametrize("samples", [functions, widths, activation_layouts])
def test_activations(samples, library):
    for sample in samples("cpu"):
        test_activation_ops.assert_as_reference(sample, run(library, sample))


@pytest.mark.parametrize("dtype", test_activation_ops.DTYPES, ids=str)
def test_activations_in_any_order(dtype, kernels):
    x = torch.randn(3077).to(dtype)
    for sample in few_bit("order", x, coding("gelu", drawn=True), seed=7):
        test_activation_ops.assert_as_reference(sample, run(kernels, sample))


@pytest.mark.parametrize("dtype", test_sketch.DTYPES, ids=str)
@pytest.mark.parametrize("kind", sketches.KINDS)
def test_sketches(kind, dtype, kernels):
    test_sketch.assert_as_reference(kernels.sketch, kind, dtype)


@pytest.mark.parametrize("size", [*test_xnor.SIZES, (129, 64, 1100)], ids=str)
def test_products_of_signs(size, kernels):
    m, p, n = size
    rows = tuple(pack_rows(test_xnor.signs(count, n)) for count in (m, p))
    wanted = xnor_mm(*rows, n)
    assert torch.equal(kernels.xnor_mm(*rows, n), wanted)
    left, right = (1 / torch.arange(1.0, count + 1) for count in (m, p))
    scaled = kernels.scaled_xnor_mm(*rows, n, left, right)
    assert torch.equal(scaled, wanted * left.view(-1, 1) * right)


def test_signs(kernels):
    test_windows.compare_signs(signs=kernels.signs)
    x = torch.randn(40, 37)
    assert torch.equal(kernels.signs(x)[2], signs(x)[2])  # the same sum, lane for lane


@pytest.mark.parametrize("channels", [8, 10, 32])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("place", test_windows.PLACES, ids=str)
def test_windows_of_a_convolution(place, groups, channels, kernels):
    x = test_windows.codes(channels=channels)
    odd = x.flatten()[1:].as_strided((1, 5, 6, channels), x.stride())  # not aligned for words
    for it in (x, odd):
        found = kernels.windows(it, -7, *place, groups)
        assert torch.equal(found, windows(it, -7, *place, groups))


@pytest.mark.parametrize("dtype", test_norm_backward.DTYPES, ids=str)
def test_gradients_of_norms(dtype, kernels):
    test_norm_backward.compare_all(kernels.norm_backward, dtypes=(dtype,))


@pytest.mark.parametrize("words", [1, 769])
def test_reversible_products_by_fractions(words, kernels):
    test_shrink.compare(kernels.shrink, kernels.unshrink, words)
