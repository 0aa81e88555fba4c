"""Integer layers as operators: opcheck, sentences, autocast, long sums, compiled."""

import pytest
import torch
from torch import library

from fxmem import integer
from fxmem.integer import Absmax
from fxmem.integer.methods import BINARY, method_of
from fxmem.integer.product import LONGEST, Term, product

from .references import conv_operands, drawn, linear_operands

CHECKED = ("int8", "wageubn8", "dorefa:1,2,32", "dorefa:8,8,8", "binarynet", "xnor", "bwn")


def operator(method, layer):
    return getattr(torch.ops.fxmem, f"{'binary' if method in BINARY else 'integer'}_{layer}")


@pytest.mark.parametrize("method", CHECKED)
def test_opcheck_linear(method):
    # Drawn errors differ from call to call, which opcheck's comparisons of gradients do not expect.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    more = () if method == "dorefa:8,8,8" else ("test_aot_dispatch_dynamic",)
    args = (*linear_operands(), method)
    library.opcheck(operator(method, "linear"), args, test_utils=(*tests, *more))


@pytest.mark.parametrize("method", ["int8", "wageubn8", "xnor", "bwn"])
def test_opcheck_conv2d(method):
    args = (*conv_operands(), [2, 1], [1, 0], [1, 1], 1, method)
    library.opcheck(operator(method, "conv2d"), args)


@pytest.mark.parametrize(
    "method", ["int8", "wageubn8", "dorefa:2,2,32", "binarynet", "xnor", "bwn"]
)
@pytest.mark.parametrize("layer", ["linear", "conv2d"])
def test_codes_alone_are_those_of_the_layer(method, layer):
    x, weight, bias = (linear_operands if layer == "linear" else conv_operands)()
    steps = [] if layer == "linear" else [[2, 1], [1, 0], [1, 1], 1]
    _, *wanted = operator(method, layer)(x, weight, bias, *steps, method)
    args = (x, method) if layer == "linear" else (x, weight, *steps, method)
    args = tuple(it.detach() if isinstance(it, torch.Tensor) else it for it in args)
    alone = operator(method, f"{layer}_codes")
    assert all(map(torch.equal, alone(*args), wanted))
    library.opcheck(alone, args)


@pytest.mark.parametrize("method", ["int8", "wageubn8", "dorefa:2,2,32", "xnor"])
def test_compiled(method):
    x, weight, bias = linear_operands()
    layer = torch.compile(integer.linear, backend="aot_eager", fullgraph=True)
    found, wanted = layer(x, weight, bias, method), integer.linear(x, weight, bias, method)
    assert torch.equal(found, wanted)
    for one, other in zip(
        *(torch.autograd.grad(y.sum(), (x, weight, bias)) for y in (found, wanted)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("int4", r"method must be one of int8, .*; got 'int4'"),
        ("dorefa", r"method must be one of .*dorefa:W,A,G.*; got 'dorefa'"),
        ("dorefa:0,2,6", r"dorefa's weight width must be 1 to 8; got 0"),
        ("dorefa:1,9,6", r"dorefa's activation width must be 1 to 8; got 9"),
        ("dorefa:1,2,16", r"dorefa's gradient width must be 1 to 8, or 32 for none; got 16"),
    ],
)
def test_methods_that_do_not_exist(name, sentence):
    x, weight, bias = linear_operands()
    with pytest.raises(ValueError, match=sentence):
        integer.linear(x, weight, bias, name)


def test_operands_that_do_not_fit():
    x, weight, bias = linear_operands()
    with pytest.raises(RuntimeError, match=r"integer_linear: x must be of 24 channels; got"):
        integer.linear(x[..., :5], weight, bias)
    with pytest.raises(RuntimeError, match=r"integer_linear: weight must be of 2 dimensions"):
        integer.linear(x, weight[0], bias)
    with pytest.raises(RuntimeError, match=r"integer_linear: x must be of floating point; got"):
        integer.linear(x.long(), weight, bias)
    image, kernel, _ = conv_operands()
    with pytest.raises(ValueError, match=r"an even 'same'; got 'full'"):
        integer.conv2d(image, kernel, padding="full")
    with pytest.raises(ValueError, match=r"slices must be one of tensor, .*; got 'block'"):
        Absmax(8, "block")
    with pytest.raises(ValueError, match=r"bits must be a whole number from 2 to 8; got 9"):
        Absmax(9)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stride": (1, 0)}, r"stride must be 2 numbers of at least 1; got \[1, 0\]"),
        ({"stride": (1, 1, 1)}, r"stride must be 2 numbers of at least 1; got \[1, 1, 1\]"),
        ({"padding": -1}, r"padding must be 2 numbers of at least 0; got \[-1, -1\]"),
        ({"dilation": 0}, r"dilation must be 2 numbers of at least 1; got \[0, 0\]"),
        ({"dilation": 6}, r"x must be at least \[13, 13\] high and wide with its padding; got"),
        ({"bias": torch.zeros(5)}, r"bias must be of 6 elements; got \(5,\)"),
        ({"weight": torch.zeros(6, 5, 3, 3).int()}, r"weight must be of floating point; got"),
        ({"x": torch.zeros(9, 8)}, r"x must be of 4 dimensions, or of 3 without a batch; got 2"),
    ],
)
@pytest.mark.parametrize("method", ["int8", "xnor", "bwn"])
def test_convolutions_that_do_not_fit(method, change, sentence):
    given = dict(zip(("x", "weight", "bias"), conv_operands(), strict=True)) | change
    kind = "binary" if method in BINARY else "integer"
    with pytest.raises(RuntimeError, match=f"fxmem::{kind}_conv2d: {sentence}"):
        integer.conv2d(**given, method=method)


def test_no_second_derivative():
    x, weight, bias = linear_operands()
    y = integer.linear(x, weight, bias)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_autocast():
    """Fixed point that autocast would round is refused; the rest follows autocast's dtype."""
    x, weight, bias = linear_operands()
    with torch.autocast("cpu", torch.bfloat16):
        for method in ("int8", "dorefa:1,2,6", "xnor"):
            y = integer.linear(x, weight, bias, method)
            assert y.dtype == torch.bfloat16
            y.float().sum().backward()
        with pytest.raises(RuntimeError, match=r"autocast's half precision would round"):
            integer.linear(x, weight, bias, "wageubn8")


@pytest.mark.parametrize("layer", [integer.linear, integer.conv2d])
@pytest.mark.parametrize("method", ["int8", "xnor", "bwn"])
def test_the_output_may_be_overwritten(layer, method):
    sizes = ((4, 8), (6, 8)) if layer is integer.linear else ((2, 4, 5, 5), (6, 4, 3, 3))
    x, weight = (drawn(*size) for size in sizes)
    found = []
    for relu in (torch.relu, torch.relu_):
        y = relu(layer(x, weight, method=method))
        found.append(torch.autograd.grad(y.square().sum(), (x, weight)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_sums_longer_than_int32_are_split():
    count = LONGEST + 40
    row = torch.full((2, count), -128, dtype=torch.int8)
    one = torch.ones((), dtype=torch.float64)
    found = product(Term(row, one), Term(row, one).t(), torch.float64)
    assert found.tolist() == [[2.0**14 * count] * 2] * 2


@pytest.mark.parametrize("zeros", [(0.0, 0.0), (128.0, 0.5), (0.0, 0.5), (128.0, 0.0)])
def test_zero_points(zeros):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randint(-128, 128, size, dtype=torch.int8, generator=generator)
        for size in ((3, 20), (20, 4))
    )
    one = torch.ones((), dtype=torch.float64)
    found = product(Term(a, one, zeros[0]), Term(b, one, zeros[1]), torch.float64)
    assert torch.equal(found, (a.double() + zeros[0]) @ (b.double() + zeros[1]))


def test_absmax():
    x = torch.tensor([[1.0, -254.0, 0.0], [0.0, 0.0, 0.0]])
    codes, scale = Absmax(8, "row").encode(x)
    assert codes.tolist() == [[0.0, -127.0, 0.0], [0.0, 0.0, 0.0]]  # 1 / 2 is a tie
    assert scale.tolist() == [[2.0], [1.0]]
    assert Absmax(8, "channel").encode(x)[1].shape == (1, 3)
    assert Absmax(8).encode(x)[1].shape == ()
    y = drawn(50, 40).detach()
    assert (Absmax(8, "row").value(y) - y).abs().max() <= y.abs().max() / 254 * 1.0001
    mean = torch.stack([Absmax(4, "row", True).value(y) for _ in range(400)]).mean(0)
    assert (mean - y).abs().max() < 5 * 0.5 * y.abs().max() / 7 / 400**0.5


def test_wageubn_names_are_the_quantizers():
    method = method_of("wageubn8")
    assert [q.bits for q in (method.activation, method.weight, method.input_error)] == [8, 8, 9]
