"""Softmax and log-softmax: torch keeps their output and nothing else, so fxmem has none."""

import pytest
import torch
from torch.nn import functional as F

from fxmem.measure import kept


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin])
def test_output_alone_is_kept(function):
    x = torch.randn(100, 256, requires_grad=True)
    found = kept(lambda: function(x * 1, -1))
    assert x.nbytes <= found.nbytes <= x.nbytes + 64
    (holder,) = (t for t in found.tensors if t.nbytes == x.nbytes)
    assert holder.name == "result"
