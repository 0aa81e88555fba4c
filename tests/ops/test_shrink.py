"""fxmem::shrink: a product by a fraction, and the way back; many of them in test_information.py."""

import pytest
import torch
from torch import library

from fxmem import ops
from fxmem.ops.shrink import LARGEST


@pytest.mark.parametrize(
    "n, d, rounds, width, bound",
    [(9, 10, 1, 12, 1), (9, 10, 1, 12, 2**40), (1, 300, 3, 4, 1), (1, 3, 1, 5, LARGEST // 243)],
)
def test_there_and_back(n, d, rounds, width, bound):
    v = torch.randint(-(2**42), 2**42, (rounds, width, 7))
    numbers = torch.randint(0, bound, (7,))
    given = v, numbers, n, d, bound
    product, after, spilled = ops.shrink(*given)
    spills, limit = ops.shrunk(n, d, width, rounds, bound)
    assert len(spilled) == spills and int(after.max()) < limit <= LARGEST
    assert (product.double() - v.double() * n / d).abs().max() <= n
    back = product, after, spilled if spills else None, n, d, bound
    assert all(map(torch.equal, ops.unshrink(*back), (v, numbers)))
    for operator, arguments in (("shrink", given), ("unshrink", back)):
        library.opcheck(getattr(torch.ops.fxmem, operator).default, arguments)
