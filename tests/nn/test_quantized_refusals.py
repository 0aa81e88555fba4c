"""fxmem.nn.quantized: sentences for what it cannot do."""

import math

import pytest
import torch
from torch import nn

from fxmem.nn import quantized
from fxmem.nn.quantized import QuantConfig
from fxmem.quantizers import tqt, tqt_pack

IMAGES = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("weight_all_bit_width", 9, "weight_all_bit_width must be a whole number from 2 to 8"),
        ("input_all_bit_width", 1, "input_all_bit_width must be a whole number from 2 to 8"),
        ("update_bit_width", 25, "update_bit_width must be a whole number from 2 to 24; got 25"),
        ("error_bit_width", 8.0, "error_bit_width must be a whole number from 2 to 8; got 8.0"),
        ("mean_dec_bit_width", True, "mean_dec_bit_width must be a whole number from 2 to 24"),
    ],
)
def test_widths_out_of_range(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        QuantConfig(**{field: value})


def test_names_that_match_nothing():
    with pytest.raises(
        ValueError, match=r"name_pattern 'head' matches no layer; there are 0, 1, 3$"
    ):
        quantized.config_network(network(), "head", QuantConfig())
    with pytest.raises(ValueError, match=r"name_pattern '\(' is no regular expression: missing"):
        quantized.config_network(network(), "(", QuantConfig())
    with pytest.raises(ValueError, match=r"Sequential has no layer that can be quantized: Linear"):
        quantized.config_network(nn.Sequential(nn.Tanh()), ".*", QuantConfig())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ((network(), ".*", {"iostrict": True}), "config must be of type QuantConfig; got {'ios"),
        ((network(), 3, QuantConfig()), "name_pattern must be of type str; got 3"),
        (([1], ".*", QuantConfig()), r"net must be of type Module; got \[1\]"),
    ],
)
def test_other_types(call, sentence):
    with pytest.raises(TypeError, match=sentence):
        quantized.config_network(*call)


def test_circular_padding():
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding_mode="circular"))
    sentence = "layer '1': integer convolutions pad with zeros; got 'circular'"
    with pytest.raises(ValueError, match=sentence):
        quantized.config_network(net, ".*", QuantConfig())
    assert type(net[0]) is nn.ReLU
    assert quantized.config_network(net, "0", QuantConfig()) == ["0"]


@pytest.mark.parametrize("geometry", [{"kernel_size": 4}, {"kernel_size": (1, 2), "dilation": 3}])
def test_padding_that_differs_between_the_sides(geometry):
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, **geometry, padding="same"))
    sentence = r"layer '1': integer convolutions pad both sides alike, .* a kernel of \("
    with pytest.raises(ValueError, match=sentence):
        quantized.config_network(net, ".*", QuantConfig())
    assert type(net[0]) is nn.ReLU
    with pytest.raises(ValueError, match="Conv2d: integer convolutions pad both sides alike"):
        quantized.Conv2d(3, 3, **geometry, padding="same")
    even = {**geometry, "dilation": 2}
    assert quantized.Conv2d(3, 3, **even, padding="same")(IMAGES).shape == IMAGES.shape


def sgd(**arguments):
    return quantized.SGD(network().parameters(), **arguments)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: quantized.Linear(3, 3, config=3), "config must be a QuantConfig; got 3"),
        (lambda: sgd(config="x"), "config must be a QuantConfig; got 'x'"),
        (
            lambda: quantized.Conv2d(3, 4, 3, weight_bit_width=9, padding_mode="zeros"),
            "Conv2d takes no weight_bit_width, padding_mode; beside .* it takes weight_dec_bit_wid",
        ),
        (lambda: quantized.ReLU(bits=3), "ReLU takes no bits; beside its own arguments it takes"),
        (
            lambda: quantized.Adder2d(3, 4, (3, 3)),
            r"kernel_size is one whole number for both directions; got \(3, 3\)",
        ),
        (lambda: quantized.Adder2d(3, 4, 3, (2, 2)), r"layer's stride is one .* got \(2, 2\)"),
        (
            lambda: quantized.adder2d(IMAGES, torch.ones(1, 3, 3, 3), padding="same"),
            "layer's padding is one whole number for both directions; got 'same'",
        ),
        (lambda: tqt(IMAGES, 0.5), "log2_t must be a tensor, as what is trained is; got 0.5"),
        (lambda: tqt_pack(IMAGES, 1), "log2_t must be a tensor, as what is trained is; got 1"),
    ],
)
def test_arguments_of_another_type(call, sentence):
    with pytest.raises(TypeError, match=sentence):
        call()


def test_statistics_of_one_value():
    norm, one = quantized.BatchNorm2d(3), torch.ones(1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"more than one value a channel; got .* \[1, 3, 1, 1\]"):
        norm(one)
    assert norm.num_batches_tracked == 0 and norm.eval()(one).shape == one.shape


LAYERS = {
    "Linear": (quantized.Linear(5, 4), IMAGES),
    "Conv2d": (quantized.Conv2d(3, 4, 3), IMAGES),
    "BatchNorm2d": (quantized.BatchNorm2d(3), IMAGES),
    "Adder2d": (quantized.Adder2d(3, 4, 3), IMAGES),
}


@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name):
    layer, x = LAYERS[name]
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RuntimeError, match=f"{name} computes .* leave autocast for it"),
    ):
        layer(x)
    with pytest.raises(
        RuntimeError, match=f"{name} .* torch.bfloat16 would round: give it float32"
    ):
        layer(x.bfloat16())


SECONDS = {
    "BatchNorm2d": "a gradient that a quantizer has rounded has no derivative. Detach it",
    "Adder2d": "the gradient of an adder layer has no derivative: what a second .* is not kept",
}


@pytest.mark.parametrize("name", SECONDS)
def test_second_derivatives(name):
    """They are not lost without a word, whatever the first was taken of."""
    layer, x = LAYERS[name][0], IMAGES.clone().requires_grad_()
    for of in (x, layer.weight):
        (first,) = torch.autograd.grad(layer(x).square().sum(), of, create_graph=True)
        with pytest.raises(RuntimeError, match=SECONDS[name]):
            first.square().sum().backward()


def test_learning_rates_and_switches():
    with pytest.raises(TypeError, match="iostrict must be True or False; got 1"):
        QuantConfig(iostrict=1)
    for lr in (1e-5, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=rf"lr must be at least half a step of .*, and finite; got {lr}"
        ):
            sgd(lr=lr)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\); got 1"):
        sgd(momentum=1)
    with pytest.raises(ValueError, match="weight_decay must be finite and not negative; got inf"):
        sgd(weight_decay=math.inf)
