"""Linear layers that keep a sketch: what is refused, functions, conversion, compilation."""

import functools
import re

import pytest
import torch
from torch.nn import functional as F

import fxmem
from fxmem.functional import linear_crs, linear_randomized
from fxmem.nn import LinearCRS, RandomizedLinear

REFUSED = {
    "nothing": ({}, "give either proj_dim_ratio, a share of the batch, or proj_dim, a count"),
    "both": ({"proj_dim": 3, "proj_dim_ratio": 0.1}, "give either proj_dim_ratio"),
    "ratio 0": ({"proj_dim_ratio": 0.0}, r"proj_dim_ratio must be in \(0, 1\]; got 0.0"),
    "ratio 1.1": ({"proj_dim_ratio": 1.1}, r"proj_dim_ratio must be in \(0, 1\]; got 1.1"),
    "ratio nan": ({"proj_dim_ratio": float("nan")}, r"proj_dim_ratio must be in \(0, 1\]; got nan"),
    "ratio as text": (
        {"proj_dim_ratio": "0.1"},
        r"proj_dim_ratio must be in \(0, 1\]; got '0.1'",
    ),
    "ratio True": ({"proj_dim_ratio": True}, r"proj_dim_ratio must be in \(0, 1\]; got True"),
    "count True": ({"proj_dim": True}, "proj_dim must be a positive integer; got True"),
    "count": ({"proj_dim": 0}, "proj_dim must be a positive integer; got 0"),
    "least": ({"proj_dim": 4, "proj_dim_min": -1}, "proj_dim_min must be a positive integer"),
    "bounds": (
        {"proj_dim": 4, "proj_dim_min": 9, "proj_dim_max": 8},
        "proj_dim_min must be at most proj_dim_max, 8; got 9",
    ),
    "generator": ({"proj_dim": 4, "generator": 7}, "generator must be a torch.Generator.*; got 7"),
    "kind": ({"proj_dim": 4, "matmul": "fft"}, "matmul must be one of gaussian, .*; got 'fft'"),
}


# The three doors to a layer, each of which must refuse what the others do.
DOORS = {
    "module": lambda **options: RandomizedLinear(12, 7, **options),
    "function": lambda **options: (
        lambda x: linear_randomized(x, torch.zeros(7, 12, requires_grad=True), **options)
    ),
    "convert": lambda **options: (
        fxmem.convert(torch.nn.Linear(12, 7), {torch.nn.Linear: {"sketch": options}}).model
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_in_a_sentence(case, door):
    options, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        DOORS[door](**options)(torch.zeros(64, 12))


@pytest.mark.parametrize("door", DOORS)
def test_more_rows_than_the_batch_has_are_refused(door):
    layer = DOORS[door](proj_dim=65)
    with pytest.raises(ValueError, match=r"proj_dim must be at most the batch.*: 64; got 65"):
        layer(torch.zeros(4, 16, 12))


@pytest.mark.parametrize("door", DOORS)
def test_a_generator_on_another_device_is_refused(door):
    class Elsewhere(torch.Generator):  # made here there is but the CPU's
        device = torch.device("cuda:1")

    layer = DOORS[door](proj_dim=6, generator=Elsewhere())
    with pytest.raises(ValueError, match="must be on the input's device, cpu; got cuda:1"):
        layer(torch.zeros(64, 12))


def test_functions_and_modules_are_one():
    x, weight, bias = torch.randn(64, 12), torch.randn(7, 12, requires_grad=True), torch.randn(7)
    for function, options in (
        (linear_randomized, {"matmul": "dct"}),
        (linear_crs, {}),
        (linear_crs, {"norm_weighted": True}),
    ):
        y = function(x, weight, bias, proj_dim_ratio=0.25, **options)
        assert torch.equal(y, F.linear(x, weight, bias))
        (grad,) = torch.autograd.grad(y.sum(), weight)
        assert grad.shape == weight.shape and grad.isfinite().all()


def test_rows_drawn_at_random():
    layer = LinearCRS(12, 7, proj_dim_ratio=0.5, norm_weighted=True)
    assert layer.projection.matmul == "crs_norm" and "crs_norm" in repr(layer)
    assert LinearCRS(12, 7, False, proj_dim=3).bias is None
    with pytest.raises(TypeError, match="matmul is RandomizedLinear's"):
        LinearCRS(12, 7, matmul="dct")


def test_repr_says_what_is_kept():
    layer = RandomizedLinear(12, 7, proj_dim_ratio=0.1, proj_dim_min=4, matmul="hadamard")
    sentence = "in_features=12, out_features=7, bias=True, proj_dim_ratio=0.1, proj_dim_min=4"
    assert repr(layer) == f"RandomizedLinear({sentence}, matmul='hadamard')"


def test_function_transforms_are_torchs():
    weight, x = torch.randn(7, 12), torch.randn(3, 64, 12)

    def loss(function):
        return lambda w, x: function(x, w).sin().sum()

    ours, theirs = (
        torch.func.vmap(torch.func.grad(loss(function)), (None, 0))(weight, x)
        for function in (functools.partial(linear_randomized, proj_dim=8), F.linear)
    )
    assert torch.equal(ours, theirs)


def test_convert_puts_them_in():
    model = torch.nn.Sequential(torch.nn.Linear(12, 7), torch.nn.GELU(), torch.nn.Linear(7, 3))
    parameters = list(model.parameters())
    result = fxmem.convert(model, {torch.nn.Linear: {"sketch": 0.1}, "1": {"sketch": 0.1}})
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model[0].projection.proj_dim_ratio == 0.1 and len(result.changes) == 2
    (refusal,) = result.refusals
    assert refusal.reason.endswith("torch.nn.Linear and transformers' Conv1D; this is GELU")
    fxmem.convert(model, {"2": {"sketch": {"proj_dim": 4, "matmul": "crs"}}})
    assert model[2].projection.matmul == "crs"
    for value, sentence in (
        ({"sketch": 2.0}, r"proj_dim_ratio must be in \(0, 1\]; got 2.0"),
        ({"sketch": 0.1, "bits": 2}, "no other option goes with it"),
    ):
        with pytest.raises(ValueError, match=re.compile(sentence)):
            fxmem.convert(model, {"0": value})


# Dynamo itself instantiates torch.autograd.Function, which warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["gaussian", "crs_norm"])
def test_compiled(kind):
    layer = RandomizedLinear(12, 7, proj_dim_ratio=0.25, matmul=kind)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (64, 96):
        x = torch.randn(n, 12, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias))
        layer.zero_grad()
        y.sum().backward()
        assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0
