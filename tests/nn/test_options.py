"""An activation's options: own borders and levels, drawn codes, in place, and refusals."""

import math
import re

import pytest
import torch
from torch.autograd import forward_ad

import fxmem
from fxmem import functional
from fxmem.activations.calculus import slope_curve
from fxmem.activations.table import TABLE
from fxmem.measure import kept

X = torch.linspace(-6.03, 6.04, 2001, dtype=torch.float64)


def gradient(function, x, *args, **options):
    """The derivative at x; a leaf's own sum is differentiated so that x stays as it is."""
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf, *args, **options).sum(), leaf)
    return found


def test_borders_and_levels():
    x, levels = X, [0.1, 0.4, 0.9]
    inner = gradient(functional.gelu, x, borders=[-1.0, 1.0], levels=levels)
    wanted = torch.tensor(levels, dtype=x.dtype)[(x > -1).long() + (x > 1)]
    assert torch.equal(inner, wanted)
    tensors = {
        "borders": torch.tensor([-9.0, -1, 1, 9]),
        "levels": torch.tensor(levels, dtype=x.dtype),
    }
    assert torch.equal(inner, gradient(functional.gelu, x, **tensors))
    even = gradient(functional.tanh, x, borders=[0, 1.5, 9], levels=[1.0, 0.25])
    assert torch.equal(even, torch.where(x.abs() <= 1.5, 1.0, 0.25).double())


REFUSED = [
    ({"bits": 9}, "bits must be 1 to 8; got 9"),
    ({"bits": "2"}, "bits must be 1 to 8; got '2'"),
    ({"bits": True}, "bits must be 1 to 8; got True"),
    ({"bits": 2.0}, "bits must be 1 to 8; got 2.0"),
    ({"bits": 2, "levels": [1.0], "borders": []}, "either bits, or borders and levels"),
    ({"borders": [0.0]}, "borders need levels"),
    ({"levels": [0.0, 1.0]}, "levels need borders, unless codes are drawn"),
    ({"borders": [0.0], "levels": [0.0, 1.0], "unbiased": True}, "unless codes are drawn"),
    ({"borders": [0.0, 1.0], "levels": [0.0, 1.0]}, "borders must be one fewer than the 2 levels"),
    ({"borders": [1.0, 0.0], "levels": [0.0, 1.0, 2.0]}, r"borders must ascend; got \[1.0, 0.0\]"),
    ({"borders": [], "levels": [math.nan]}, "levels must be 1 to 256 finite numbers"),
    ({"borders": [0, 1, 9], "levels": [0, 1]}, "borders from 0 code |x|, but the slope of gelu"),
    ({"levels": [1.0, 0.0], "unbiased": True}, "levels that are drawn must ascend"),
    ({"levels": [0, 1], "unbiased": True}, "must span the slope of gelu, from -0.128904 to 1.1289"),
    ({"levels": [-1, 0, 1], "unbiased": True}, "must span the slope of gelu, from -0.128904"),
    ({"keep": "input"}, "keep must be 'codes' or 'output'; got 'input'"),
    ({"keep": "output", "bits": 3}, "keep='output' is exact: bits, borders"),
    ({"approximate": "erf"}, "approximate must be 'none' or 'tanh'; got 'erf'"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refusals(options, words):
    functional.gelu(torch.ones(3), bits=1)  # nor may a cache take True for 1
    functional.gelu(torch.ones(3), bits=2)
    with pytest.raises(ValueError, match=words.replace("|x|", r"\|x\|")):
        functional.gelu(torch.ones(3), **options)


def test_true_is_no_width_where_it_is_compiled():
    compiled = torch.compile(lambda x: functional.gelu(x, bits=True), backend="eager")
    with pytest.raises(Exception, match="bits must be 1 to 8; got True"):
        compiled(torch.ones(3))


def test_refusals_of_single_rows():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="relu is coded exactly: it takes no borders and levels"):
        functional.relu(x, borders=[0.0], levels=[0.0, 1.0])
    with pytest.raises(ValueError, match="output of leaky_relu, negative_slope=-1 does not"):
        functional.leaky_relu(x, -1.0, keep="output")
    with pytest.raises(RuntimeError, match="x must be float32, bfloat16, float16 or float64"):
        functional.gelu(torch.ones(3, dtype=torch.int64))


REFUSED_BY_TORCH = [("softshrink", -1.0), ("softshrink", math.nan), ("celu", 0.0)]


@pytest.mark.parametrize(("name", "argument"), REFUSED_BY_TORCH)
def test_what_torch_refuses(name, argument):
    x, theirs = torch.ones(3), getattr(torch.nn.functional, name)
    module = {"softshrink": fxmem.nn.Softshrink, "celu": fxmem.nn.CELU}[name]
    with pytest.raises(RuntimeError) as refused:
        theirs(x, argument)
    for ours in (lambda: getattr(functional, name)(x, argument), lambda: module(argument)(x)):
        with pytest.raises(RuntimeError, match=re.escape(str(refused.value).splitlines()[0])):
            ours()


def test_levels_that_span():
    """As printed, and where no levels could span them all."""
    x = torch.ones(3)
    functional.gelu(x, levels=[-0.1289, 0.5, 1.1289], unbiased=True)
    functional.squared_relu(x, levels=[0.0, 1.0], unbiased=True)
    functional.exp(x, levels=[0.5, 1.0], unbiased=True)


@pytest.mark.parametrize("name", ["gelu", "tanh", "elu", "squared_relu"])
def test_drawn_codes_are_unbiased(name):
    x, draws = torch.linspace(-3, 3, 41), 4000
    many = x.expand(draws, -1).contiguous()
    found = gradient(getattr(functional, name), many, bits=2, unbiased=True)
    exact = torch.from_numpy(slope_curve(TABLE[name])(x.double().numpy()))
    deviation = found.double().std(dim=0) / math.sqrt(draws)
    assert ((found.double().mean(dim=0) - exact).abs() <= 5 * deviation + 1e-6).all()
    assert len(found.unique()) <= 4


def test_drawn_codes_follow_torchs_generator():
    x = torch.randn(1000)
    draw = lambda: gradient(functional.gelu, x, unbiased=True)  # noqa: E731
    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and not torch.equal(first, second)


@pytest.mark.parametrize("options", [{}, {"keep": "output"}, {"unbiased": True}])
def test_no_second_derivative(options):
    x = torch.randn(5, requires_grad=True)
    with pytest.raises(RuntimeError, match="what a second derivative needs is not kept"):
        (first,) = torch.autograd.grad(functional.silu(x, **options).sum(), x, create_graph=True)
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: functional.gelu(x, bits=3),
        lambda x: functional.elu(x, keep="output"),
        lambda x: functional.silu(x, unbiased=True),
        lambda x: functional.swiglu(x, x),
        lambda x: functional.linear_cross_entropy(x, torch.ones(5, 4), torch.tensor([1, 2, 3])),
    ],
)
def test_transforms_of_torch_func_are_refused_in_a_sentence(f):
    x = torch.randn(3, 4)
    sentence = "neither in forward mode nor by torch.func. Use the function of torch there"
    for differentiated in (
        lambda: torch.func.jvp(f, (x,), (x,)),
        lambda: torch.func.grad(lambda a: f(a).sum())(x),
        lambda: torch.func.jacfwd(f)(x),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            differentiated()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=sentence):
        f(forward_ad.make_dual(x, x))
    torch.testing.assert_close(torch.func.vmap(functional.gelu)(x), functional.gelu(x))


@pytest.mark.parametrize("options", [{}, {"keep": "output"}])
def test_in_place(options):
    x, plain = torch.randn(2, 1000)
    plain = x.clone().requires_grad_()
    wanted = gradient(functional.silu, x, **options)
    before = plain * 1
    after = functional.silu(before, inplace=True, **options)
    assert after is before and torch.equal(after, functional.silu(x))
    (found,) = torch.autograd.grad(after.sum(), plain)
    assert torch.equal(found, wanted)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        functional.silu(plain, inplace=True, **options)


def test_in_place_keeps_one_output():
    """The input's storage is the output's: beside it there is the branch bit alone."""
    x = torch.randn(1000, requires_grad=True)

    def forward():
        return functional.silu(x.clone(), inplace=True, keep="output")

    assert kept(forward).nbytes == 4000 + 125
