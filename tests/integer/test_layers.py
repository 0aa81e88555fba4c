"""Integer layers: the fake-quantized computation's values and gradients, and exactly its bytes."""

import pytest
import torch

from fxmem import integer
from fxmem.integer import Absmax
from fxmem.integer.methods import BINARY, method_of
from fxmem.measure import kept

from .references import CONVOLUTIONS, METHODS, conv_operands, drawn, fake, gradients
from .references import linear_operands as operands

# Integers are exact: float32's rounding of the sum, its scales and the bias is all that differs.
ROUNDING = {"rtol": 4 * 2.0**-23, "atol": 1e-6}
# Real errors and inputs are summed in float32 over up to 216 products.
SUMMED = {"rtol": 1e-4, "atol": 1e-5}
REAL = ("binaryconnect", "bwn")


def rounded(error, grad):
    """The error that a layer's products see."""
    return grad if error is None else error.value(grad)


@pytest.mark.parametrize("method", METHODS)
def test_linear_is_the_product_of_the_values(method):
    x, weight, bias = operands()
    y = integer.linear(x, weight, bias, method)
    limits = SUMMED if method in REAL else ROUNDING
    torch.testing.assert_close(y, fake(x, weight, bias, method).float(), **limits)
    assert y.dtype == x.dtype


@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_conv2d_is_the_convolution_of_the_values(method, geometry):
    x, weight, bias = conv_operands()
    y = integer.conv2d(x, weight, bias, *geometry, method=method)
    limits = SUMMED if method in REAL else ROUNDING
    torch.testing.assert_close(y, fake(x, weight, bias, method, *geometry).float(), **limits)


@pytest.mark.parametrize("geometry", [(), *CONVOLUTIONS], ids=str)
def test_powers_of_two_make_all_three_products_exact(geometry):
    """WAGEUBN's scales only shift: the float64 computation, rounded once, is reached to the bit."""
    x, weight, _ = conv_operands() if geometry else operands()
    layer = integer.conv2d if geometry else integer.linear
    y = layer(x, weight, None, *geometry, method="wageubn8")
    wanted = fake(x, weight, None, "wageubn8", *geometry)
    assert torch.equal(y, wanted.float())
    grad = drawn(*y.shape).detach()
    found = gradients(y, (x, weight), grad)
    error = method_of("wageubn8").input_error.value(grad).double()
    for one, other in zip(found, gradients(wanted, (x, weight), error), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("geometry", [(), *CONVOLUTIONS], ids=str)
@pytest.mark.parametrize("method", ["dorefa:3,2,32", "dorefa:8,8,32", "dorefa:1,1,32", *BINARY])
def test_gradients_of_real_errors(method, geometry):
    x, weight, bias = conv_operands() if geometry else operands()
    layer = integer.conv2d if geometry else integer.linear
    y = layer(x, weight, bias, *geometry, method=method)
    grad, wanted = drawn(*y.shape).detach(), fake(x, weight, bias, method, *geometry)
    found = gradients(y, (x, weight, bias), grad)
    for one, other in zip(found, gradients(wanted, (x, weight, bias), grad), strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), **SUMMED)


@pytest.mark.parametrize("geometry", [(), (1, 1, 1), (2, 1, 1)], ids=str)
def test_int8_errors_are_quantized_once_for_each_product(geometry):
    """With the kept operand's own scale multiplied in before; by the formula, in float64."""
    x, weight, _ = conv_operands() if geometry else operands()
    layer = integer.conv2d if geometry else integer.linear
    y = layer(x, weight, None, *geometry)
    grad, method = drawn(*y.shape).detach(), method_of("int8", bool(geometry))
    found = gradients(y, (x, weight), grad)
    last = grad.movedim(1, -1) if geometry else grad
    scales = [q.encode(t.detach())[1] for q, t in ((method.activation, x), (method.weight, weight))]
    left = method.activation.encode(x.detach())[0].double().requires_grad_()
    right = method.weight.encode(weight.detach())[0].double().requires_grad_()
    call = torch.nn.functional.conv2d if geometry else torch.nn.functional.linear
    codes = call(left, right, None, *geometry)
    for (mine, scale, quantizer), one in zip(
        (
            (left, scales[1].reshape(-1), method.input_error),
            (right, scales[0][..., 0] if geometry else scales[0], method.weight_error),
        ),
        found,
        strict=True,
    ):
        scale = scale.unsqueeze(-1) if geometry and mine is right else scale
        error = quantizer.value((last * scale).contiguous()).double()
        error = error.movedim(-1, 1) if geometry else error
        (wanted,) = torch.autograd.grad(codes, mine, error, retain_graph=True)
        torch.testing.assert_close(one, wanted.float(), **ROUNDING)


@pytest.mark.parametrize("method", ["int8:stochastic", "dorefa:2,2,6"])
def test_drawn_errors_are_right_in_expectation(method):
    x, weight, _ = operands()
    y = integer.linear(x, weight, None, method)
    grad = drawn(*y.shape).detach()
    draws = [torch.autograd.grad(y, (x, weight), grad, retain_graph=True) for _ in range(300)]
    real = gradients(fake(x, weight, None, method), (x, weight), grad)
    for one, other in zip(zip(*draws, strict=True), real, strict=True):
        drawn_ones = torch.stack(one)
        spread = drawn_ones.std(0) / len(draws) ** 0.5
        assert spread.max() > 0
        off = (drawn_ones.mean(0) - other).abs() / spread.clamp(min=1e-6)
        assert off.max() < 5  # of some 250 elements, in standard errors


def bits(method):
    """Bits kept of an element of x."""
    of_integers = {"int8": 8, "wageubn8": 8, "dorefa:1,2,6": 3, "dorefa:3,4,32": 5}
    return {**of_integers, "binarynet": 2, "xnor": 2}[method]


@pytest.mark.parametrize(
    "method", ["int8", "wageubn8", "dorefa:1,2,6", "dorefa:3,4,32", "binarynet", "xnor"]
)
def test_what_is_kept_has_the_claimed_bits(method):
    """Codes and the mask, if there is one; a row's scale is little. Of the weight nothing is."""
    x, weight = drawn(64, 512), drawn(64, 512)
    before = x * 1  # not a leaf: the ruler would count it if the layer kept it
    found = kept(lambda: integer.linear(before, weight, None, method))
    claimed = x.numel() * bits(method) // 8
    assert claimed <= found.nbytes <= claimed + 64 * 4 + 16


@pytest.mark.parametrize("geometry", [(), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("method", ["int8", "dorefa:2,3,32", "xnor", "bwn"])
def test_nothing_is_kept_for_gradients_that_nobody_wants(method, geometry):
    x, weight, _ = conv_operands() if geometry else operands()
    layer = integer.conv2d if geometry else integer.linear

    def run(x, weight):
        return layer(x, weight, None, *geometry, method=method)

    whole = gradients(run(x, weight), (x, weight), drawn(*run(x, weight).shape).detach())
    for i, pair in enumerate(((x, weight.detach()), (x.detach(), weight))):
        y = run(*pair)
        (alone,) = gradients(y, (pair[i],), drawn(*y.shape).detach())
        assert torch.equal(alone, whole[i])
    frozen = kept(lambda: run(x * 1, weight.detach()))
    assert frozen.nbytes < kept(lambda: run(x * 1, weight)).nbytes


def test_the_kept_operand_is_the_one_that_was_multiplied():
    x, weight, _ = operands()
    _, codes, scale, *_ = torch.ops.fxmem.integer_linear(x, weight, None, "int8")
    assert codes.dtype == torch.int8 and codes.shape == x.shape
    assert torch.equal(codes * scale, Absmax(8, "row").value(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["int8", "dorefa:1,2,32", "xnor", "bwn"])
def test_other_dtypes(method, dtype):
    x, weight, bias = operands(dtype)
    y = integer.linear(x, weight, bias, method)
    assert y.dtype == dtype
    wide = (it.to(torch.promote_types(dtype, torch.float32)) for it in (x, weight))
    wanted = fake(*wide, bias, method).to(dtype)
    # One rounding to dtype, which a sum next to a tie may do the other way.
    torch.testing.assert_close(y, wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    grads = gradients(y, (x, weight), torch.ones_like(y))
    assert [g.dtype for g in grads] == [dtype, dtype]
    assert all(g.isfinite().all() for g in grads)


def test_conv1d():
    x, weight = drawn(2, 5, 20), drawn(4, 5, 3, scale=0.3)
    y = integer.conv1d(x, weight, None, 2, 1, method="wageubn8")
    two = x.unsqueeze(2), weight.unsqueeze(2)
    wanted = fake(*two, None, "wageubn8", (1, 2), (0, 1), (1, 1)).squeeze(2)
    assert torch.equal(y, wanted.float())


def test_of_one_dimension_and_of_none():
    x, weight, bias = operands()
    for method in METHODS:
        one, rows = (integer.linear(it, weight, bias, method) for it in (x[0, 0], x[:1, :1]))
        torch.testing.assert_close(one, rows[0, 0], **SUMMED)
        empty = integer.linear(x[:0], weight, bias, method)
        assert empty.shape == (0, 3, 7)
        empty.sum().backward()
