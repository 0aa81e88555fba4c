"""fxmem::xnor_mm and fxmem::absmax: exactly the products of signs, exactly torch's codes."""

import pytest
import torch

from fxmem.ops.absmax import absmax
from fxmem.ops.xnor import pack_rows, unpack_rows, xnor_mm

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
    wanted = torch.where(top == 0, 1, top / 100)
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


def test_opcheck():
    rows = pack_rows(signs(5, 70)), pack_rows(signs(3, 70))
    torch.library.opcheck(torch.ops.fxmem.xnor_mm, (*rows, 70))
    for by_column in (False, True):
        x, factor = matrix("normal", "cpu"), torch.rand(33 if by_column else 130)
        torch.library.opcheck(torch.ops.fxmem.absmax, (x, factor, by_column, 127))


def test_codes_have_no_derivative():
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="fxmem::absmax has no derivative"):
        absmax(x)[1].sum().backward()
