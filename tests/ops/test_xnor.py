"""fxmem::xnor_mm and scaled_xnor_mm: exactly the products of signs, wherever they are counted."""

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
