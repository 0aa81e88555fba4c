"""Layers of a graph that do not compute in integers, in a sentence each; options that cannot be."""

import pytest
import torch
from torch import nn

import fxmem
from fxmem.policy import PolicyError

from .dialects import DIALECTS, symbolic
from .test_integer import END, Perceptron, asked, refusals


def test_the_ends_are_named():
    gm = fxmem.transform(symbolic(Perceptron()), asked("xnor"))
    assert refusals(gm) == {
        "first": END.format("first"),
        "last": END.format("last"),
    }


MIDDLES = {
    "transposed": (nn.ConvTranspose2d(4, 4, 3), "it is transposed, or pads with more than zeros"),
    "reflected": (
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        "it is transposed, or pads with more than zeros",
    ),
    "same": (
        nn.Conv2d(4, 4, 2, padding="same"),
        "padding must be numbers, 'valid' or an even 'same'; got 'same'",
    ),
    "volumes": (
        nn.Conv3d(4, 4, 3),
        "its weight is not known to be of a linear layer or a convolution of 1 or 2 dimensions",
    ),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_refused(name):
    middle, why = MIDDLES[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), middle, nn.Conv2d(4, 3, 1))
    assert refusals(fxmem.transform(symbolic(model), asked("int8")))["1"] == why


def test_autocast_of_fixed_point_is_refused():
    model, x = Perceptron(), torch.randn(6, 8)

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    torch._dynamo.reset()
    gm = fxmem.transform(DIALECTS["dynamo"](run, x), asked("wageubn8", first_and_last=True))
    assert set(refusals(gm).values()) == {
        "wageubn8 computes on grids that torch.bfloat16 would round"
    }


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("int4", r"rules\['integer'\]\['method'\] must be int8, .* got 'int4'"),
        ("dorefa:9,2,6", r"W and A from 1 to 8 and G from 1 to 8 or 32, got 'dorefa:9,2,6'"),
        (True, r"rules\['integer'\] must be False, a method or a dict of its options"),
        ({"first_and_last": True}, r"rules\['integer'\] needs a method"),
        ({"method": "int8", "last": 1}, "unknown option of rule 'integer' 'last'"),
    ],
)
def test_bad_options(value, sentence):
    with pytest.raises(PolicyError, match=sentence):
        fxmem.Policy(rules={"integer": value})
