"""Where a pool's maxima lie, in the bits that its window needs: always exact."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from .tools import TestBackend, gradients, leaf, partitioned

BITS = {"min_bytes": 0}
POOL = "prims._low_memory_max_pool_with_offsets[1]"


def pooled(x, w, kernel=2, **options):
    return F.max_pool2d(F.conv2d(x, w, padding=1), kernel, **options)


def inputs(size=12):
    return leaf(2, 3, size, size), leaf(4, 3, 3, 3)


def entry(g):
    (found,) = (e for e in g.plan.entries if e.residual.op == POOL)
    return found


@pytest.mark.parametrize(("kernel", "bits"), [(2, 2), (3, 4), ((1, 2), 1), ((2, 4), 3), (5, 5)])
def test_bits(kernel, bits):
    g = partitioned(lambda x, w: pooled(x, w, kernel), *inputs(33), policy=BITS)
    found = entry(g)
    assert found.rule == "places" and found.action == f"{bits} bit{'s' * (bits > 1)} an element"
    assert found.nbytes == -(-found.residual.nbytes * bits // 8) and found.guarantee == "exact"
    (kept,) = (n for n in g.kept if n.name.endswith("_bits"))
    assert kept.meta["val"].dtype == torch.uint8 and kept.meta["val"].numel() == found.nbytes


@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"padding": 1}, {"ceil_mode": True}])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_is_that_of_the_places(kernel, options, layout):
    x, w = (t.detach().to(memory_format=layout).requires_grad_() for t in inputs())

    def f(x, w):
        return pooled(x, w, kernel, **options)

    packed = gradients(f, x, w, policy=BITS)
    plain = gradients(f, x, w, policy={"rules": {"places": False}})
    assert all(torch.equal(a, b) for a, b in zip(packed, plain, strict=True))
    for found, wanted in zip(packed, gradients(f, x, w), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"ceil_mode": True}])
def test_sizes_that_are_not_known(options):
    """Places are packed in memory order, proved of any size: no graph more than Dynamo makes.

    That is one for all sizes; torch 2.11 makes two where it asks whether windows fill an image.
    """

    def compiled(backend):
        torch._dynamo.reset()
        return torch.compile(
            lambda x, w: pooled(x, w, 3, **options), backend=backend, fullgraph=True, dynamic=True
        )

    w, batches = leaf(4, 3, 3, 3), [leaf(2, 3, 12, 14), leaf(5, 3, 17, 11)]

    def trained(f):
        return [torch.autograd.grad(f(x, w).sin().sum(), (x, w)) for x in batches]

    backend, plain = TestBackend(BITS), CompileCounter()
    torch.testing.assert_close(trained(compiled(backend)), trained(compiled(plain)))
    assert len(backend.pairs) == plain.frame_count
    for graph in backend.pairs:
        assert entry(graph).rule == "places" and entry(graph).action == "4 bits an element"


def test_three_dimensions():
    x, w = leaf(1, 2, 6, 6, 6), leaf(2, 2, 1, 1, 1)
    g = partitioned(lambda x, w: F.max_pool3d(F.conv3d(x, w), 2), x, w, policy=BITS)
    assert entry(g).action == "3 bits an element"


def test_refusals():
    small = partitioned(pooled, *inputs())
    assert entry(small).why.endswith("places: smaller than min_bytes=65536")
    forbidden = {"rules": {"places": False}, **BITS}
    assert "rules forbid 'places'" in entry(partitioned(pooled, *inputs(), policy=forbidden)).why
