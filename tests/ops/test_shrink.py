"""fxmem::shrink: a product by a fraction, and the way back; many of them in test_multiplier.py."""

import pytest
import torch
from torch import library

from fxmem import ops
from fxmem.ops.shrinking.operators import LARGEST, _shrink_reference, _unshrink_reference

from .test_ops_samples import DEVICES

# n, d, rounds, width, bound
CASES = (
    (9, 10, 1, 12, 1),
    (9, 10, 1, 12, 2**40),
    (1, 300, 3, 4, 1),
    (1, 3, 1, 5, LARGEST // 243),
    (1023, 1024, 16, 4, LARGEST),
    (7, 7, 2, 3, 5),
    (1, 1, 1, 16, 1),
)


def given(n, d, rounds, width, bound, words=7, device="cpu"):
    draw = torch.Generator().manual_seed(0)
    v = torch.randint(-(2**42), 2**42, (rounds, width, words), generator=draw)
    v.view(-1)[::3] %= 5
    numbers = torch.randint(0, bound, (words,), generator=draw)
    return v.to(device), numbers.to(device), n, d, bound


def compare(shrink, unshrink, words=7, device="cpu"):
    for case in CASES:
        arguments = given(*case, words=words, device=device)
        made = shrink(*arguments)
        assert all(map(torch.equal, made, _shrink_reference(*arguments)))
        product, after, spilled = made
        back = product, after, spilled if spilled.numel() else None, *arguments[2:]
        assert all(map(torch.equal, unshrink(*back), arguments[:2]))
        assert all(map(torch.equal, _unshrink_reference(*back), arguments[:2]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("words", [0, 1, 7, 9001])
def test_there_and_back_as_the_reference(words, device):
    compare(ops.shrink, ops.unshrink, words, device)


def test_what_the_product_is_and_what_it_costs():
    for case in CASES:
        v, numbers, n, d, bound = given(*case)
        product, after, spilled = ops.shrink(v, numbers, n, d, bound)
        spills, limit = ops.shrunk(n, d, *v.shape[1::-1], bound)
        assert len(spilled) == spills and int(after.max()) < limit <= LARGEST
        assert torch.all((product.double() - v.double() * n / d).abs() <= n)


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63), -1, 0])
def test_integers_at_the_ends_of_their_range(edge):
    v, numbers = torch.full((1, 3, 2), edge), torch.tensor([0, 6])
    for n, d in ((1, 2), (9, 10), (1, 8191)):
        made = ops.shrink(v, numbers, n, d, 7)
        assert all(map(torch.equal, made, _shrink_reference(v, numbers, n, d, 7)))
        assert all(map(torch.equal, ops.unshrink(*made[:2], None, n, d, 7), (v, numbers)))


def test_strides_and_opcheck():
    v, numbers, *fraction = given(1, 300, 3, 4, 2**50)
    product, after, spilled = made = ops.shrink(v, numbers, *fraction)
    turned = v.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    apart = torch.stack([numbers, numbers], 1)[:, 0]
    assert all(map(torch.equal, ops.shrink(turned, apart, *fraction), made))
    columns = spilled.t().contiguous().t()
    assert all(map(torch.equal, ops.unshrink(product, after, columns, *fraction), (v, numbers)))
    library.opcheck(torch.ops.fxmem.shrink.default, (v, numbers, *fraction))
    library.opcheck(torch.ops.fxmem.unshrink.default, (product, after, spilled, *fraction))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"v": torch.zeros(3, 4)},
            r"v must be int64 .1 to 64 rounds, width, words.; got .3, 4. o",
        ),
        ({"v": torch.zeros(65, 4, 7, dtype=torch.int64)}, "v must be int64 .1 to 64 rounds"),
        ({"v": torch.zeros(3, 0, 7, dtype=torch.int64)}, r"v must be int64 .*; got .3, 0, 7. of"),
        ({"numbers": torch.zeros(6, dtype=torch.int64)}, r"numbers must be int64 .7.; got .6. of"),
        ({"numbers": torch.zeros(7)}, r"numbers must be int64 .7.; got .7. of"),
        ({"n": 0}, "n must be 1 to d, which is 10; got 0"),
        ({"n": 11}, "n must be 1 to d, which is 10; got 11"),
        ({"d": 4096}, r"d \*\* width must be at most 2\^40; got 4096 \*\* 4"),
        ({"bound": 0}, r"bound must be 1 to 2\^62; got 0"),
        ({"bound": LARGEST + 1}, r"bound must be 1 to 2\^62; got"),
    ],
)
@pytest.mark.parametrize("call", [ops.shrink, _shrink_reference])
def test_what_does_not_fit(call, change, sentence):
    names = "v", "numbers", "n", "d", "bound"
    arguments = dict(zip(names, given(9, 10, 3, 4, 1), strict=True)) | change
    with pytest.raises(RuntimeError, match=f"fxmem::shrink: {sentence}"):
        call(*arguments.values())


@pytest.mark.parametrize("call", [ops.unshrink, _unshrink_reference])
def test_spilled_words_that_do_not_fit(call):
    v, numbers, *fraction = given(1, 300, 3, 4, 2**50)
    _, _, spilled = ops.shrink(v, numbers, *fraction)
    for words, got in (
        (None, "None"),
        (spilled[1:], r".5, 7. of "),
        (spilled.flatten(), ".42. of "),
        (spilled.int(), ".6, 7. of "),
    ):
        sentence = rf"unshrink: spilled must be int16 .6, 7., or None for none; got {got}"
        with pytest.raises(RuntimeError, match=sentence):
            call(v, numbers, words, *fraction)
