"""Dropout kept in bits: torch's own numbers under the same seed, and an eighth of its bytes."""

import pytest
import torch
from torch.nn import functional as F

from fxmem import functional, nn
from fxmem.measure import kept

NAMES = ("dropout", "alpha_dropout")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INPUTS = {
    "odd": lambda: torch.randn(33, 7),
    "transposed": lambda: torch.randn(4, 5, 6).transpose(0, 2),
    "gaps": lambda: torch.randn(10, 8)[:, ::2],
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def step(space, name, x, *args):
    """Output, gradient, and the next number of the generator."""
    torch.manual_seed(3)
    y = getattr(space, name)(x * 2, *args)
    (grad,) = torch.autograd.grad(y.sin().sum(), x)
    return y.detach(), grad, torch.rand((), device=x.device)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_is_torchs(name, case, dtype, inplace):
    x = INPUTS[case]().to(dtype).requires_grad_()
    ours, theirs = (step(space, name, x, 0.3, True, inplace) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(found, wanted) and found.stride() == wanted.stride()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_draw(name, p, training):
    x = torch.randn(9).requires_grad_()
    ours, theirs = (step(space, name, x, p, training) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_kept_bytes(name):
    x = torch.randn(8000).requires_grad_()
    ours, theirs = (
        kept(lambda space=space: getattr(space, name)(x * 1, 0.5, True)).nbytes
        for space in (functional, F)
    )
    assert 1000 <= ours <= 1100 and theirs >= (32000 if name == "dropout" else 0)


def test_in_place():
    x = torch.randn(50).requires_grad_()
    h = x * 1
    assert functional.dropout(h, inplace=True) is h
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        functional.dropout(x, inplace=True)


def test_second_derivative():
    x = torch.randn(20, dtype=torch.float64).requires_grad_()

    def f(x):
        torch.manual_seed(0)
        return functional.dropout(x, 0.4).pow(3)

    assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name):
    with pytest.raises(ValueError, match="has to be between 0 and 1"):
        getattr(functional, name)(torch.randn(3).requires_grad_(), 1.5)


def test_compiled():
    f = torch.compile(lambda x: functional.dropout(x, 0.5), backend="aot_eager", fullgraph=True)
    x = torch.randn(1000).requires_grad_()
    y = f(x)
    assert 400 < (y == 0).sum() < 600
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, y != 0)


def test_autocast():
    x = torch.randn(64, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (step(space, "dropout", x, 0.5) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout"])
def test_modules(name):
    ours, theirs = (getattr(space, name)(0.3) for space in (nn, torch.nn))
    assert repr(ours) == repr(theirs) and isinstance(ours, type(theirs))
    x = torch.randn(40).requires_grad_()
    for train in (True, False):
        results = []
        for module in (ours, theirs):
            torch.manual_seed(1)
            y = module.train(train)(x)
            results.append((y, *torch.autograd.grad(y.sum(), x)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_is_torchs_on_a_gpu(name, inplace, dtype):
    x = torch.randn(33, 70, dtype=dtype, device="cuda").requires_grad_()
    ours, theirs = (step(space, name, x, 0.3, True, inplace) for space in (functional, F))
    for found, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(found, wanted)
