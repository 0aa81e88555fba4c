"""Convolutions in groups, depthwise ones too: each group's product, forward and backward."""

import pytest
import torch
from torch import library

import fxmem
from fxmem import integer
from fxmem.integer.methods import BINARY, method_of
from fxmem.measure import kept

from .references import GROUPED, METHODS, drawn, fake, gradients, grouped_operands

ROUNDING = {"rtol": 4 * 2.0**-23, "atol": 1e-6}
SUMMED = {"rtol": 1e-4, "atol": 1e-5}
REAL = ("binaryconnect", "bwn")
REAL_ERRORS = ("dorefa:3,2,32", "dorefa:8,8,32", *BINARY)


@pytest.mark.parametrize("geometry", GROUPED, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_convolution_of_the_values(method, geometry):
    x, weight, bias = grouped_operands(geometry[-1])
    y = integer.conv2d(x, weight, bias, *geometry, method=method)
    limits = SUMMED if method in REAL else ROUNDING
    torch.testing.assert_close(y, fake(x, weight, bias, method, *geometry).float(), **limits)


@pytest.mark.parametrize("geometry", GROUPED, ids=str)
def test_powers_of_two_make_all_three_products_exact(geometry):
    x, weight, _ = grouped_operands(geometry[-1])
    y = integer.conv2d(x, weight, None, *geometry, method="wageubn8")
    wanted = fake(x, weight, None, "wageubn8", *geometry)
    assert torch.equal(y, wanted.float())
    grad = drawn(*y.shape).detach()
    error = method_of("wageubn8").input_error.value(grad).double()
    found = gradients(y, (x, weight), grad)
    for one, other in zip(found, gradients(wanted, (x, weight), error), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("geometry", GROUPED, ids=str)
@pytest.mark.parametrize("method", REAL_ERRORS)
def test_gradients_of_real_errors(method, geometry):
    x, weight, bias = grouped_operands(geometry[-1])
    y = integer.conv2d(x, weight, bias, *geometry, method=method)
    grad, wanted = drawn(*y.shape).detach(), fake(x, weight, bias, method, *geometry)
    found = gradients(y, (x, weight, bias), grad)
    for one, other in zip(found, gradients(wanted, (x, weight, bias), grad), strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), **SUMMED)


@pytest.mark.parametrize("method", ["int8", "dorefa:2,3,6"])
def test_groups_are_layers_side_by_side(method):
    """Where quantizers see the same range, a grouped layer is its groups' layers, to the bit."""
    geometry = (1, 1, 1)
    x, weight, _ = grouped_operands(1)
    both, twice = torch.cat([x, x], 1).detach().requires_grad_(), torch.cat([weight, weight])
    y = integer.conv2d(both, twice, None, *geometry, 2, method=method)
    one = integer.conv2d(x, weight, None, *geometry, method=method)
    assert torch.equal(y, torch.cat([one, one], 1))
    if method == "int8":
        grad = drawn(*one.shape).detach()
        (wide,) = gradients(y, (both,), torch.cat([grad, grad], 1))
        (narrow,) = gradients(one, (x,), grad)
        assert torch.equal(wide, torch.cat([narrow, narrow], 1))


def test_kept_are_the_claimed_bits():
    """No group's signs are filled to whole words in what is kept."""
    x, weight, _ = grouped_operands(8)
    claimed = 2 * x.numel() / 8
    found = kept(lambda: integer.conv2d(x * 1, weight, None, 1, 1, 1, 8, "binarynet")).nbytes
    assert claimed <= found <= claimed + 16


@pytest.mark.parametrize("method", ["int8", "dorefa:2,2,32", "xnor"])
def test_opcheck(method):
    call = torch.ops.fxmem.binary_conv2d if method in BINARY else torch.ops.fxmem.integer_conv2d
    args = (*grouped_operands(2), [2, 1], [1, 0], [1, 1], 2, method)
    library.opcheck(call, args)


def test_conv1d():
    x, weight = drawn(2, 6, 20), drawn(4, 3, 3, scale=0.3)
    y = integer.conv1d(x, weight, None, 2, 1, 1, 2, method="wageubn8")
    two = x.unsqueeze(2), weight.unsqueeze(2)
    wanted = fake(*two, None, "wageubn8", (1, 2), (0, 1), (1, 1), 2).squeeze(2)
    assert torch.equal(y, wanted.float())


def test_the_rule_takes_groups():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 3, 1, 1, 1, g) for g in (1, 2, 1)))
    x, middle = torch.randn(2, 4, 7, 7), model[1]
    gm = fxmem.transform(torch.fx.symbolic_trace(model), {"rules": {"integer": "int8"}})
    given = middle.weight, middle.bias, 1, 1, 1, 2, "int8"
    assert torch.equal(gm(x), model[2](integer.conv2d(model[0](x), *given)))


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (4, r"integer_conv2d: x must be of 4 channels; got"),
        (3, r"integer_conv2d: groups must be a divisor of 16 outputs; got 3"),
        (0, r"integer_conv2d: groups must be a divisor of 16 outputs; got 0"),
    ],
)
def test_groups_that_do_not_fit(groups, sentence):
    x, weight = drawn(2, 8, 5, 5), drawn(16, 1, 3, 3)
    with pytest.raises(RuntimeError, match=sentence):
        integer.conv2d(x, weight, groups=groups)
