"""Stepwise: the function of given slopes, its parities and shifts, and slopes for a function."""

import math

import pytest
import torch

from fxmem import functional, nn
from fxmem.measure import kept

X = torch.linspace(-4.03, 4.04, 2001, dtype=torch.float64)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def computed(module, x=X):
    leaf = x.clone().requires_grad_()
    output = module(leaf)
    output.sum().backward()
    return output.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_function_of_its_slopes(dtype):
    x = torch.cat([X, torch.tensor([math.inf, -math.inf])]).to(dtype)
    for ours, theirs in (
        (nn.Stepwise([0.0], [0.0, 1.0]), torch.nn.ReLU()),
        (nn.Stepwise([0.0], [0.25, 1.0]), torch.nn.LeakyReLU(0.25)),
        (nn.Stepwise([-1.5, 1.5], [0.0, 1.0, 0.0]), torch.nn.Hardtanh(-1.5, 1.5)),
        (nn.Stepwise([-0.5, 0.5], [1.0, 0.0, 1.0]), torch.nn.Softshrink(0.5)),
        (nn.Stepwise([-9.0, 0.0, 9.0], [0.0, 1.0]), torch.nn.ReLU()),
    ):
        (value, slope), (expected, derivative) = computed(ours, x), computed(theirs, x)
        assert torch.equal(value, expected)
        away = ~torch.isin(x.abs(), torch.tensor([0, 0.5, 1.5], dtype=dtype))  # from the borders
        assert torch.equal(slope[away], derivative[away])


def test_slopes_that_no_activation_has():
    borders, levels = torch.randn(9).double().sort().values, torch.randn(10).double()
    value, slope = computed(nn.Stepwise(borders, levels))
    assert torch.equal(slope, levels[torch.bucketize(X, borders)])
    inside = (slope[1:] == slope[:-1]).nonzero()
    rise = (value[1:] - value[:-1]) / (X[1:] - X[:-1])
    torch.testing.assert_close(rise[inside], slope[1:][inside], rtol=1e-9, atol=1e-9)
    assert value.diff().abs().max() <= levels.abs().max() * 1.001 * (X[1] - X[0])  # no jump
    assert functional.stepwise(torch.zeros(1), borders, levels) == 0


def test_even():
    value, slope = computed(nn.Stepwise([1.0, 2.0], [1.0, 0.5, 0.25], "even"))
    right, right_slope = computed(nn.Stepwise([1.0, 2.0], [1.0, 0.5, 0.25]), X.abs())
    assert torch.equal(slope, right_slope)
    torch.testing.assert_close(value, right * X.sign(), rtol=1e-14, atol=1e-14)


def test_odd():
    value, slope = computed(nn.Stepwise([1.0], [0.25, 1.0], "odd"))
    right, right_slope = computed(nn.Stepwise([1.0], [0.25, 1.0]), X.abs())
    assert torch.equal(slope, right_slope * X.sign())
    torch.testing.assert_close(value, right, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("parity", [None, "even", "odd"])
def test_shift(parity):
    plain = nn.Stepwise([0.5, 1.0], [0.25, 1.0, -1.0], parity)
    shifted = nn.Stepwise([0.5, 1.0], [0.25, 1.0, -1.0], parity, (0.75, 0.125))
    (value, slope), (expected, derivative) = computed(shifted), computed(plain, X - 0.75)
    assert torch.equal(slope, derivative + 0.125)
    wanted = expected + 0.125 * (X - 0.75)
    torch.testing.assert_close(value, wanted, rtol=1e-13, atol=1e-13)


def test_slopes_for_a_function():
    module = nn.Stepwise([0.0], [0.125, 0.875], function=torch.special.expit)
    value, slope = computed(module)
    assert torch.equal(value, torch.special.expit(X))
    assert torch.equal(slope, torch.where(X <= 0, 0.125, 0.875).double())


@pytest.mark.parametrize(("levels", "bits"), [(2, 1), (3, 2), (5, 3), (255, 8), (256, 8)])
def test_kept_bytes(levels, bits):
    module = nn.Stepwise(range(levels - 1), range(levels))
    x = torch.randn(1001, requires_grad=True)
    assert kept(lambda: module(x)).nbytes == math.ceil(1001 * bits / 8)


REFUSED = [
    (([0.0], [1.0]), "borders must be one fewer than the 1 levels"),
    ((range(256), range(257)), "levels must be 1 to 256 finite numbers; got 257"),
    ((range(199), range(200), "odd"), "levels must be 1 to 256 finite numbers; got 400"),
    (([-1.0], [0.0, 1.0], "even"), "with parity, borders lie right of the origin"),
    (([0.0], [0.0, 1.0], None, 3), r"shift must be two numbers, \(x, y\); got 3"),
    (([0.0], [0.0, 1.0], None, (1,)), r"shift must be two numbers, \(x, y\); got \(1,\)"),
    (([1.0], [0.0, 1.0], True), "parity must be 'even', 'odd' or None; got True"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refusals(given, words):
    with pytest.raises(ValueError, match=words):
        nn.Stepwise(*given)
    with pytest.raises(ValueError, match=words):
        functional.stepwise(torch.ones(3), *given)


def test_attributes_may_be_set_later():
    module = nn.Stepwise([0.0], [0.0, 1.0])
    module.levels, module.borders = (0.0, 2.0, 1.0), (0.0, 1.0)
    assert repr(module) == "Stepwise(3 levels, bits=2)" and module(torch.ones(1)) == 2
    module.levels = (0.0, 1.0)
    assert "impossible: borders must be one fewer than the 2 levels" in repr(module)
    module.levels = None
    assert repr(module).startswith("Stepwise(impossible: ")


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_beyond_a_dtype(dtype):
    module = nn.Stepwise([0.0], [1e39, 0.0])
    if dtype is torch.float64:
        assert torch.equal(module(X), X.clamp(max=0) * 1e39)
    else:
        with pytest.raises(ValueError, match=r"a level of 1e\+39 is beyond torch.float32"):
            module(X.to(dtype))


def test_what_it_cannot_compute():
    with pytest.raises(RuntimeError, match="input must be floating point; got "):
        nn.Stepwise([0], [0, 1])(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"function makes \[\] of \[3\]"):
        nn.Stepwise([0], [0, 1], function=torch.sum)(torch.ones(3))
    x = torch.randn(3, requires_grad=True)
    output = nn.Stepwise([0], [0, 1])(x).sum()
    with pytest.raises(RuntimeError, match="stepwise has no gradient with create_graph=True: what"):
        torch.autograd.grad(output, x, create_graph=True)
