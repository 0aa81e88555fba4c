"""Norms kept as their output: torch's values, exact gradients, and what is kept."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from fxmem import functional
from fxmem.measure import kept
from fxmem.ops import blocks
from fxmem.ops.norms import channels, gradient

C = 24
HALVES = (torch.bfloat16, torch.float16)
SIZES = {"rows": (40, C), "deep": (5, 7, C), "one": (C,)}
IMAGES = {"flat": (9, C), "line": (4, C, 5), "image": (3, C, 5, 7), "volume": (2, C, 3, 2, 3)}
AFTER = {
    "identity": lambda y: y,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.3),
    "elu": lambda y: F.elu(y, 0.3),
}


def weights(dtype=torch.float64, shift=0.3, n=C):
    """As trained, and beside it channels without, or nearly without, a weight."""
    weight, bias = torch.randn(n) * 0.2 + 1, torch.randn(n) * shift + 0.01
    weight[0], weight[1], weight[2], weight[3] = 0.0, 1e-30, -1e-4, -0.7
    return weight.to(dtype), bias.to(dtype)


def layer(space):
    return lambda x, w, b: space.layer_norm(x, (C,), w, b)


def rms(space):
    return lambda x, w: space.rms_norm(x, (C,), w, 1e-6)


def group(space):
    return lambda x, w, b: space.group_norm(x, 4, w, b)


def batch(space, activation="identity", training=True):
    """Running statistics are fresh at each call."""

    def function(x, w=None, b=None):
        running = (torch.full((C,), 0.3), torch.full((C,), 1.7))
        given = (x, *(t.to(x.dtype) for t in running), w, b, training)
        if space is F:
            return AFTER[activation](F.batch_norm(*given))
        return functional.batch_norm(*given, activation=activation, activation_param=0.3)

    return function


CASES = {
    **{f"layer {name}": (layer, size) for name, size in SIZES.items()},
    **{f"rms {name}": (rms, size) for name, size in SIZES.items()},
    **{f"group {name}": (group, size) for name, size in IMAGES.items()},
    **{f"batch {name}": (batch, size) for name, size in IMAGES.items()},
    **{
        f"batch {act} {training}": (
            lambda space, act=act, training=training: batch(space, act, training),
            IMAGES["image"],
        )
        for act in AFTER
        for training in (True, False)
    },
}


def arguments(case, dtype=torch.float64, **options):
    make, size = CASES[case]
    x = (torch.randn(size) * 2 + 0.5).to(dtype)
    return make, x, weights(dtype, **options)[: 1 if make is rms else 2]


def gradients(function, x, *affine, slope=None, dtype=None):
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (x, *affine)]
    y = function(*leaves)
    slope = torch.linspace(-1, 1, y.numel()).view(y.shape) if slope is None else slope
    return y.detach(), *torch.autograd.grad(y, leaves, slope.to(y.dtype))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_is_torchs(case, dtype, affine):
    make, x, given = arguments(case, dtype)
    given = given if affine else given[:0]
    none = (None,) * (0 if affine else 1 if make is rms else 2)
    ours = gradients(lambda *t: make(functional)(*t, *none), x, *given)
    theirs = gradients(lambda *t: make(F)(*t, *none), x, *given)
    assert torch.equal(ours[0], theirs[0])
    for found, wanted in zip(ours[1:], theirs[1:], strict=True):
        # A sum over rows that cancels has the error of its terms.
        floor = 20 * torch.finfo(dtype).eps * len(x) * (1 + wanted.abs().max().item())
        torch.testing.assert_close(found, wanted, rtol=0, atol=floor)


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case):
    make, x, given = arguments(case)
    x, given = x.narrow(0, 0, min(len(x), 3) if x.dim() > 1 else C), [t.clone() for t in given]
    leaves = [t.detach().requires_grad_() for t in (x, *given)]
    assert gradcheck(make(functional), leaves, fast_mode=True)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, "edge"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "case",
    [
        *("layer rows", "rms rows", "group image", "batch image", "batch identity False"),
        *("batch leaky_relu True", "batch elu True"),
    ],
)
def test_error_in_half_precision(case, dtype, shift):
    """At most twice plain's, whatever weight and bias are: at the edge all channels are so bad."""
    make, size = CASES[case]
    found, plain = 0.0, 0.0
    for _ in range(8):
        size = (200, C) if len(size) == 2 else (16, C, 5, 7)
        x, slope = (torch.randn(size) * 2).to(dtype), torch.randn(size).to(dtype)
        given = weights(dtype, 0.0 if shift == "edge" else shift)
        if shift == "edge":
            given = (given[0], (given[0] * (0.99 * channels.LARGEST_SHIFT)).to(dtype))
        given = given[: 1 if make is rms else 2]
        exact = gradients(make(F), x, *given, slope=slope, dtype=torch.float64)
        errors = [
            torch.stack([(a.double() - b).square().sum() for a, b in zip(got, exact, strict=True)])
            for space in (functional, F)
            for got in [gradients(make(space), x, *given, slope=slope)]
        ]
        found, plain = found + errors[0], plain + errors[1]
    assert (found <= 4 * plain).all(), (found / plain).sqrt()


def test_lost_channels_are_those_that_would_err():
    """Without their place the error is out of bounds: what is kept beside the output is needed."""
    weight, bias = torch.full((C,), 0.01), torch.ones(C)
    x, slope = torch.randn(2, 300, C).to(torch.bfloat16)
    given = (weight.bfloat16(), bias.bfloat16())
    exact = gradients(layer(F), x, *given, slope=slope, dtype=torch.float64)
    error = lambda got: (got[2].double() - exact[2]).norm() / exact[2].norm()  # noqa: E731
    assert error(gradients(layer(functional), x, *given, slope=slope)) < 0.01
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels, "kept", lambda *_: torch.empty(0, dtype=torch.int64))
        patch.setattr(gradient, "steepest", lambda dtype: torch.inf)
        assert error(gradients(layer(functional), x, *given, slope=slope)) > 0.05


def linear(y):
    return F.linear(y, torch.ones(1, C, requires_grad=True))


def bytes_of(function, x, *given):
    leaves = [t.clone().requires_grad_() for t in (x, *given)]
    return kept(lambda: linear(function(leaves[0] * 1, *leaves[1:]).movedim(1, -1))).nbytes


@pytest.mark.parametrize("make", [layer, rms, batch])
def test_kept_bytes(make):
    """The output, which the linear layer keeps, and 1 / deviation; torch keeps the input too."""
    x, (weight, bias) = torch.randn(1000, C), (torch.ones(C), torch.zeros(C))
    given = (weight,) if make is rms else (weight, bias)
    size, statistics = x.nbytes, 4 * (C if make is batch else 1000)
    few = 64  # the linear layer's weight, and an index of no elements
    found = bytes_of(lambda *t: make(functional)(*t).movedim(-1, 1), x, *given)
    assert size + statistics <= found <= size + statistics + 12 * C + few
    assert bytes_of(lambda *t: make(F)(*t).movedim(-1, 1), x, *given) >= 2 * size
    weight[5:8] = 0
    more = bytes_of(lambda *t: make(functional)(*t).movedim(-1, 1), x, *given) - found
    assert 3 * 4000 <= more <= 3 * 4000 + few


def test_activated_batch_norm_keeps_one_output():
    x, (weight, bias) = torch.randn(500, C), (torch.ones(C), torch.zeros(C))
    ours, theirs = (bytes_of(batch(s, "leaky_relu"), x, weight, bias) for s in (functional, F))
    assert ours <= x.nbytes + 1000 and theirs >= 3 * x.nbytes


@pytest.mark.parametrize("case", ["layer deep", "rms deep", "group image", "batch elu True"])
def test_large_inputs_by_blocks(case, monkeypatch):
    make, x, given = arguments(case)
    whole = gradients(make(functional), x, *given)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    for found, wanted in zip(gradients(make(functional), x, *given), whole, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("case", ["group image", "batch leaky_relu True", "batch identity False"])
def test_channels_last(case):
    make, x, given = arguments(case)
    x = x.to(memory_format=torch.channels_last)
    ours, theirs = (gradients(make(space), x, *given) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.stride() == wanted.stride()


@pytest.mark.parametrize("case", ["layer rows", "layer deep", "rms rows", "group image"])
def test_empty_batch(case):
    make, x, given = arguments(case)
    ours, theirs = (gradients(make(space), x[:0], *given) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(found, wanted)
