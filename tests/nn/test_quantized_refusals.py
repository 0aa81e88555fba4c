"""fxmem.nn.quantized: sentences for what it cannot do."""

import pytest
import torch
from torch import nn

from fxmem.nn import quantized
from fxmem.nn.quantized import QuantConfig

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


def test_config_of_another_type():
    with pytest.raises(TypeError, match="config must be a QuantConfig; got 3"):
        quantized.Linear(3, 3, config=3)


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


def test_learning_rates_and_switches():
    with pytest.raises(TypeError, match="iostrict must be True or False; got 1"):
        QuantConfig(iostrict=1)
    with pytest.raises(ValueError, match="lr must be at least half a step of"):
        quantized.SGD(network().parameters(), lr=1e-5)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\); got 1"):
        quantized.SGD(network().parameters(), momentum=1)
