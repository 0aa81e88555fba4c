"""Layers of a graph that do not compute in integers, in a sentence each; options that cannot be."""

import pytest
import torch
import torch.nn.functional as F
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


class Filtered(nn.Module):
    """Products with buffers at both ends and in the middle, as of a filterbank; one turned over."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.randn(6, 8))
        self.layers = nn.ModuleList(
            nn.Linear(6, 6, bias=False).requires_grad_(i != 1) for i in range(3)
        )

    def forward(self, x):
        x = F.linear(x, self.bank).tanh()
        for layer in self.layers:
            x = F.linear(F.linear(layer(x).tanh(), self.bank.t()), self.bank)
        return x


@pytest.mark.parametrize("dialect", ["symbolic_trace", "dynamo", "export"])
def test_products_with_buffers_are_no_layers(dialect):
    """Nor do they count as the first layer or the last; what is frozen does."""
    model, x = Filtered(), torch.randn(5, 8)
    gm = fxmem.transform(DIALECTS[dialect](model, x), asked("int8"))
    entries = [e for e in fxmem.report(gm).entries if e.rule == "integer"]
    whys = [getattr(e, "why", "integers") for e in entries]
    buffers = ["its weight is a buffer or a constant: no layer's, so it stays as it is"] * 2
    ends = [END.format("first"), "integers", END.format("last")]
    assert whys == [*buffers[1:], *(w for end in ends for w in (end, *buffers))]


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
