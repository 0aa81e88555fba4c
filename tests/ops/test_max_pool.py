"""Max pooling kept as places in windows: torch's own numbers, and few bits an output."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

import fxmem
from fxmem import functional, nn
from fxmem.measure import kept

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = (9, 8, 7)
KERNELS = {1: (2, (3,), 5), 2: (2, (3, 2), 4), 3: (2, (1, 2, 3))}
STRIDES, PADDINGS, DILATIONS = (None, 1, 3), (0, 1), (1, 2)
CASES = [
    (dims, kernel, *rest)
    for dims, kernels in KERNELS.items()
    for kernel in kernels
    for rest in itertools.product(STRIDES, PADDINGS, DILATIONS, (False, True))
    if not (rest[1] and kernel == (1, 2, 3))  # torch: padding is at most half of the window
]


def step(space, x, dims, *args, **options):
    y = getattr(space, f"max_pool{dims}d")(x, *args, **options)
    slope = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, x, slope)


def same(x, dims, *args, **options):
    x = x.requires_grad_()
    ours, theirs = (step(space, x, dims, *args, **options) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
        assert found.stride() == wanted.stride()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_torchs(case):
    dims = case[0]
    same(torch.randn(2, 3, *SIZES[:dims]), *case)
    same(torch.randn(3, *SIZES[:dims]).round(), *case)  # ties, and no batch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_nan_and_infinity(dims, dtype):
    x = torch.randn(4, *SIZES[:dims]).to(dtype)
    x.flatten()[5:8] = torch.nan
    x[2:] = -torch.inf
    same(x, dims, 3, 2, 1)


@pytest.mark.parametrize("make", [lambda x: x.transpose(2, 3), lambda x: x[..., ::2], lambda x: x])
def test_layouts(make):
    x = torch.randn(2, 4, 6, 8)
    same(make(x), 2, 3, 2)
    same(make(x.to(memory_format=torch.channels_last)), 2, 3, 2)


def test_largest_window():
    x = torch.randn(1, 2, 40, 40)
    same(x, 2, 16)  # 256 places
    same(x, 2, 17)  # torch's own


BITS = {2: 2, 3: 4, (1, 2): 1, 4: 4, (3, 5): 4, 1: 1}


@pytest.mark.parametrize("kernel", BITS, ids=str)
def test_kept_bytes(kernel):
    x = torch.randn(2, 8, 60, 60).requires_grad_()
    outputs = functional.max_pool2d(x, kernel).numel()
    ours, theirs = (
        kept(lambda space=space: space.max_pool2d(x * 1, kernel)).nbytes
        for space in (functional, F)
    )
    bits = -(-outputs * BITS[kernel] // 8)
    assert bits <= ours <= bits + 16 and theirs >= x.nbytes + 8 * outputs


def test_no_second_derivative():
    x = torch.randn(1, 1, 4, 4).requires_grad_()
    (first,) = torch.autograd.grad(functional.max_pool2d(x, 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="keeps places in its window has no derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((2, 2, 3), {}, "pad should be at most half of"),
        (((2, 2, 2),), {}, "kernel_size must either be a single int, or a tuple of two"),
        ((9,), {}, "Output size is too small"),
        ((2, 0), {}, "stride should not be zero|stride must be greater than zero"),
    ],
)
def test_refusals_are_torchs(args, options, words):
    for space in (functional, F):
        with pytest.raises(RuntimeError, match=words):
            space.max_pool2d(torch.randn(1, 1, 5, 5).requires_grad_(), *args, **options)


def test_indices_are_torchs():
    x = torch.randn(1, 2, 6, 6).requires_grad_()
    ours, theirs = (space.max_pool2d(x, 2, return_indices=True) for space in (functional, F))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_empty_batch_and_no_gradient():
    same(torch.randn(0, 2, 4, 4), 2, 2)
    assert functional.max_pool2d(torch.randn(1, 2, 4, 4), 2).grad_fn is None


def test_compiled():
    f = torch.compile(lambda x: functional.max_pool2d(x, 2), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 8, 8).requires_grad_()
    found, wanted = (
        torch.autograd.grad(g(x).sin().sum(), x) for g in (f, lambda x: F.max_pool2d(x, 2))
    )
    assert torch.equal(found[0], wanted[0])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_modules(dims):
    name = f"MaxPool{dims}d"
    theirs = getattr(torch.nn, name)(3, 2, 1, ceil_mode=True)
    ours = fxmem.convert(torch.nn.Sequential(theirs), {type(theirs): {}}).model[0]
    assert type(ours) is getattr(nn, name) and repr(ours) == repr(theirs)
    x = torch.randn(2, 3, *SIZES[:dims]).requires_grad_()
    found, wanted = (torch.autograd.grad(m(x).sin().sum(), x)[0] for m in (ours, theirs))
    assert torch.equal(found, wanted)


ADAPTIVE = {1: (3, (4,), 1), 2: (3, (4, 1), (None, 2)), 3: (3, (1, 2, 3), 2)}


@pytest.mark.parametrize("dims", ADAPTIVE)
def test_adaptive(dims):
    """Windows of one size keep places; others, and asked-for indices, are torch's own."""
    for size in ADAPTIVE[dims]:
        theirs = getattr(torch.nn, f"AdaptiveMaxPool{dims}d")(size)
        ours = fxmem.convert(torch.nn.Sequential(theirs), {type(theirs): {}}).model[0]
        assert type(ours) is getattr(nn, f"AdaptiveMaxPool{dims}d") and repr(ours) == repr(theirs)
        for sizes in ((12, 6, 6), (11, 7, 6)):
            for x in (torch.randn(2, 3, *sizes[:dims]), torch.randn(2, *sizes[:dims]).round()):
                x.requires_grad_()
                found, wanted = (
                    (y.detach(), *torch.autograd.grad(y.sin().sum(), x))
                    for y in (ours(x), theirs(x))
                )
                assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        indices = type(theirs)(size, return_indices=True)
        both = fxmem.convert(torch.nn.Sequential(copy.copy(indices)), {type(theirs): {}}).model[0]
        assert all(torch.equal(a, b) for a, b in zip(both(x), indices(x), strict=True))


def test_adaptive_kept_bytes():
    x = torch.randn(2, 8, 60, 60).requires_grad_()
    ours, theirs = (
        kept(lambda space=space: space.AdaptiveMaxPool2d(20)(x * 1)).nbytes
        for space in (nn, torch.nn)
    )
    outputs = 2 * 8 * 20 * 20
    assert outputs // 2 <= ours <= outputs // 2 + 16 and theirs >= x.nbytes + 8 * outputs
