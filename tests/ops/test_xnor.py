"""fxmem::xnor_mm and scaled_xnor_mm: exactly the products of signs, wherever they are counted."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import library

from fxmem.ops.integer.xnor import pack_rows, scaled_xnor_mm, unpack_rows, xnor_mm

from .test_ops_samples import DEVICES

SIZES = ((1, 1, 1), (3, 5, 7), (4, 16, 64), (70, 33, 130), (9, 17, 5000), (0, 3, 8), (3, 0, 8))


def signs(rows, n, device="cpu"):
    generator = torch.Generator().manual_seed(rows + n)
    return (torch.randn(rows, n, generator=generator) > 0).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_signs(size, device):
    m, p, n = size
    a, b = signs(m, n, device), signs(p, n, device)
    found = xnor_mm(pack_rows(a), pack_rows(b), n)
    wanted = (a.double() * 2 - 1) @ (b.double() * 2 - 1).t()
    assert found.dtype == torch.int32 and torch.equal(found, wanted.int())


def test_rows_of_several_rows_behind_one_another():
    """A convolution's window: each part is filled to whole words, and fillings count nothing."""
    a, b = signs(4 * 3, 6).view(4, 3, 6), signs(2 * 3, 6).view(2, 3, 6)
    found = xnor_mm(pack_rows(a).flatten(1), pack_rows(b).flatten(1), 18)
    wanted = (a.flatten(1).double() * 2 - 1) @ (b.flatten(1).double() * 2 - 1).t()
    assert torch.equal(found, wanted.int())


@pytest.mark.parametrize("n", [1, 63, 64, 65])
def test_rows_are_words(n):
    a = signs(3, n)
    packed = pack_rows(a)
    assert packed.shape == (3, -(-n // 64) * 8)
    assert torch.equal(unpack_rows(packed, n), a)
    assert (unpack_rows(packed, packed.size(1) * 8)[:, n:] == 0).all()


def test_strided_rows():
    a, b = pack_rows(signs(8, 64)), pack_rows(signs(5, 64))
    assert torch.equal(xnor_mm(a[::2], b, 64), xnor_mm(a[::2].clone(), b, 64))


@pytest.mark.parametrize(
    ("a", "b", "n", "sentence"),
    [
        ((2, 8), (2, 16), 64, "b must be rows of 8 bytes, as a's; got 16"),
        ((2, 7), (2, 7), 56, "a must be uint8 rows of whole 8-byte words; got"),
        ((2, 8), (2, 8), 65, "n must be 0 to 64; got 65"),
        ((8,), (2, 8), 64, "a must be uint8 rows of whole 8-byte words; got"),
    ],
)
def test_signs_that_do_not_fit(a, b, n, sentence):
    rows = (torch.zeros(size, dtype=torch.uint8) for size in (a, b))
    with pytest.raises(RuntimeError, match=f"fxmem::xnor_mm: {sentence}"):
        xnor_mm(*rows, n)


def test_opcheck():
    rows = pack_rows(signs(5, 70)), pack_rows(signs(3, 70))
    library.opcheck(torch.ops.fxmem.xnor_mm, (*rows, 70))
    scales = torch.rand(5), torch.rand(3)
    library.opcheck(torch.ops.fxmem.scaled_xnor_mm, (*rows, 70, *scales))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("single", [(), (0,), (1,), (0, 1)], ids=str)
def test_scaled(single, size, device):
    m, p, n = size
    rows = pack_rows(signs(m, n, device)), pack_rows(signs(p, n, device))
    given = (torch.rand(()), torch.rand(1)) if len(single) == 2 else (torch.rand(m), torch.rand(p))
    scales = [torch.rand(()) if i in single else it for i, it in enumerate(given)]
    left, right = (it.to(device) for it in scales)
    found = scaled_xnor_mm(*rows, n, left, right)
    wanted = xnor_mm(*rows, n).float() * left.reshape(-1, 1) * right.reshape(1, -1)
    assert torch.equal(found, wanted) if device == "cpu" else torch.allclose(found, wanted)


@pytest.mark.parametrize(
    ("left", "right", "sentence"),
    [
        (torch.ones(3), torch.ones(1), "left must be float32, 1 or 2; got 3 of"),
        (torch.ones(2), torch.ones(1).double(), "right must be float32, 1 or 4; got 1 of"),
        (torch.ones(2), torch.ones(2, 2), "right must be float32, 1 or 4; got 4 of"),
    ],
)
def test_scales_that_do_not_fit(left, right, sentence):
    rows = (torch.zeros(size, 8, dtype=torch.uint8) for size in (2, 4))
    with pytest.raises(RuntimeError, match=f"fxmem::scaled_xnor_mm: {sentence}"):
        scaled_xnor_mm(*rows, 64, left, right)


HOST = """
#include <cstdio>
#include <memory>
#include <vector>
#include "native/xnor_tiles.h"
using namespace fxmem;
// Sizes, then a's words and b's, on standard input; scales are 1 / (1 + row) and 1 / (1 + column).
int main(int count, char**) {
  XnorProduct task{};
  int64_t size[4];
  if (fread(size, 8, 4, stdin) != 4) return 1;
  task.rows = size[0], task.columns = size[1], task.words = size[2], task.n = size[3];
  std::vector<uint64_t> a(task.rows * task.words), b(task.columns * task.words);
  if (fread(a.data(), 8, a.size(), stdin) != a.size()) return 1;
  if (fread(b.data(), 8, b.size(), stdin) != b.size()) return 1;
  std::vector<int32_t> sums(task.rows * task.columns, 7777);
  std::vector<float> values(sums.size(), 7777), left(task.rows), right(task.columns);
  for (size_t i = 0; i < left.size(); ++i) left[i] = 1.0F / (1 + i);
  for (size_t i = 0; i < right.size(); ++i) right[i] = 1.0F / (1 + i);
  task.a = a.data(), task.b = b.data(), task.left = left.data(), task.right = right.data();
  task.left_step = task.right_step = 1;
  task.sums = sums.data();
  if (count > 1) task.values = values.data();
  for (int64_t tile = 0; tile < xnor_tiles(task); ++tile) {
    const auto words = std::make_unique<XnorTile>();
    std::vector<XnorCounts> counts(kTileThreads, XnorCounts{});
    for (int64_t from = 0; from < task.words; from += kTileWords) {
      for (int t = 0; t < kTileThreads; ++t) load_words(task, tile, from, t, *words);
      for (int t = 0; t < kTileThreads; ++t) count_words(*words, t, counts[t]);
    }
    for (int t = 0; t < kTileThreads; ++t) store_sums(task, tile, t, counts[t]);
  }
  const void* out = count > 1 ? static_cast<void*>(values.data()) : sums.data();
  return fwrite(out, 4, sums.size(), stdout) == sums.size() ? 0 : 1;
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """CUDA's tiles, gone through by a processor: thread after thread between two barriers."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("tiles")
    source, program = folder / "tiles.cpp", folder / "tiles"
    source.write_text(HOST)
    command = [compiler, "-std=c++17", "-O1", "-fsanitize=undefined", "-ffp-contract=off"]
    command += [f"-I{Path(__file__).parents[2]}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("size", [*SIZES, (129, 64, 1100)], ids=str)
def test_the_tiles_of_cuda_on_a_processor(size, scaled, host):
    m, p, n = size
    a, b = pack_rows(signs(m, n)), pack_rows(signs(p, n))
    given = torch.tensor([m, p, a.size(1) // 8, n]).numpy().tobytes()
    command = [host, "scaled"] if scaled else [host]
    given += a.numpy().tobytes() + b.numpy().tobytes()
    out = subprocess.run(command, input=given, capture_output=True, check=True).stdout
    wanted = xnor_mm(a, b, n)
    if scaled:
        left, right = (1 / torch.arange(1.0, count + 1) for count in (m, p))
        wanted = wanted * left.view(-1, 1) * right
    assert out == wanted.numpy().tobytes()
