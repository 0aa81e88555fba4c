"""Pools, pads and grids need the shape of their input alone: nothing else changes."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fxmem.passes.joint.unread import SHAPES

from .tools import gradients, leaf, partitioned, partitions

GRID = torch.linspace(-1.2, 1.2, 2 * 5 * 7 * 2).view(2, 5, 7, 2)
GRID3 = torch.linspace(-1.2, 1.2, 2 * 3 * 5 * 7 * 3).view(2, 3, 5, 7, 3)
SIZES = {1: (13,), 2: (12, 14), 3: (6, 9, 8)}
CASES = {
    "avg_pool2d": (2, lambda h: F.avg_pool2d(h, 3, 2, 1)),
    "avg_pool2d of a large window": (2, lambda h: F.avg_pool2d(h, 9, 1, ceil_mode=True)),
    "avg_pool3d": (3, lambda h: F.avg_pool3d(h, 2, count_include_pad=False)),
    "_adaptive_avg_pool2d": (2, lambda h: F.adaptive_avg_pool2d(h, (5, 3))),
    "_adaptive_avg_pool3d": (3, lambda h: F.adaptive_avg_pool3d(h, (5, 3, 4))),
    "adaptive_max_pool2d": (2, lambda h: F.adaptive_max_pool2d(h, (5, 3))),
    "adaptive_max_pool3d": (3, lambda h: F.adaptive_max_pool3d(h, (5, 3, 4))),
    "fractional_max_pool2d": (2, lambda h: _fractional(F.fractional_max_pool2d, h, 5)),
    "fractional_max_pool3d": (3, lambda h: _fractional(F.fractional_max_pool3d, h, 4)),
    "max_pool2d": (2, lambda h: F.max_pool2d(h, 7)),
    "max_pool3d": (3, lambda h: F.max_pool3d(h, 2)),
    "replication_pad1d": (1, lambda h: F.pad(h, (2, 1), mode="replicate")),
    "replication_pad2d": (2, lambda h: F.pad(h, (2, 1, 0, 3), mode="replicate")),
    "replication_pad3d": (3, lambda h: F.pad(h, (2, 1, 0, 3, 1, 1), mode="replicate")),
    "reflection_pad3d": (3, lambda h: F.pad(h, (2, 1, 0, 3, 1, 1), mode="reflect")),
    "reflection_pad1d": (1, lambda h: F.pad(h, (2, 1), mode="reflect")),
    "reflection_pad2d": (2, lambda h: F.pad(h, (2, 1, 0, 3), mode="reflect")),
    "grid_sample": (2, lambda h: F.grid_sample(h, GRID, align_corners=False)),
    "grid_sample 3d": (3, lambda h: F.grid_sample(h, GRID3, align_corners=True)),
}
BITS = {"min_bytes": 0}


def _fractional(pool, h, size):
    samples = torch.full((2, 4, h.dim() - 2), 0.4)
    return pool(h, 2, output_size=size, _random_samples=samples)


def behind_a_convolution(dims, f):
    """What nothing but `f` needs: a convolution's gradient needs its own input and weight."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return lambda x, w: f(convolve(x, w))


def inputs(dims):
    return leaf(2, 3, *SIZES[dims]), leaf(4, 3, *[1] * dims)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize(("dims", "f"), CASES.values(), ids=CASES)
def test_input_is_not_kept(dims, f, layout):
    whole, given = behind_a_convolution(dims, f), inputs(dims)
    if layout == "channels last" and dims > 1:
        kind = (torch.channels_last, torch.channels_last_3d)[dims - 2]
        given = [t.detach().to(memory_format=kind).requires_grad_() for t in given]
    g = partitioned(whole, *given, policy=BITS)
    before = tuple(given[0].shape[:1]) + (4,) + SIZES[dims]
    assert str(list(before)) not in g.kept_set
    for a, b in zip(gradients(whole, *given, policy=BITS), gradients(whole, *given), strict=True):
        torch.testing.assert_close(a, b)


def test_none_of_these_operators_reads_it():
    """Of an input without a single number they make the same gradients."""
    read = set()
    for dims, f in CASES.values():
        x = torch.randn(2, 4, *SIZES[dims], requires_grad=True)
        with Blanked() as mode:
            torch.autograd.grad(f(x).square().sum(), x)
        read |= mode.seen
    frozen = torch.ops.aten.convolution_backward.default  # test_unread_frozen.py
    assert read == {*SHAPES} - {frozen}


class Blanked(TorchDispatchMode):
    """Calls every operator of the table a second time, with an input of NaN."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        found = op(*args, **(kwargs or {}))
        if op in SHAPES:
            self.seen.add(op)
            again = op(args[0], torch.full_like(args[1], float("nan")), *args[2:])
            # A grid's own gradient, the second, is not asked for here.
            first = (r[0] if isinstance(r, tuple) else r for r in (again, found))
            torch.testing.assert_close(*first, rtol=0, atol=0)
        return found


def test_a_grid_that_is_trained_needs_the_values():
    def f(x, w, grid):
        return F.grid_sample(F.conv2d(x, w), grid, align_corners=False)

    given = *inputs(2), GRID.clone().requires_grad_()
    assert "aten.convolution float32[2, 4, 12, 14]" in partitioned(f, *given, policy=BITS).kept_set


@pytest.mark.parametrize("case", ["avg_pool2d", "_adaptive_avg_pool2d", "replication_pad2d"])
def test_sizes_that_are_not_known(case):
    whole, given = behind_a_convolution(*CASES[case]), inputs(2)
    (g,) = partitions(whole, *given, policy=BITS, dynamic=True)
    assert g.kept_set == "" and "new_empty_strided" in g.backward.text
    found = gradients(whole, *given, policy=BITS, dynamic=True)
    for a, b in zip(found, gradients(whole, *given), strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_by_inductor():
    names = "avg_pool2d", "avg_pool2d of a large window", "adaptive_max_pool2d", "replication_pad2d"

    def f(x, w):
        h = F.conv2d(x, w)
        return sum(CASES[name][1](h).sum() for name in names)

    given = inputs(2)
    torch._dynamo.reset()
    found = torch.autograd.grad(torch.compile(f, backend="fxmem", options=BITS)(*given), given)
    torch.testing.assert_close(found, torch.autograd.grad(f(*given), given), rtol=1e-4, atol=1e-4)
