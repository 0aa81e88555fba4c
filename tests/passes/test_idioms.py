"""Activations are found by what they compute: every spelling, in every dialect of FX."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from fxmem.activations.table import TABLE

from .dialects import DIALECTS, symbolic
from .matching import found, is_whole, names
from .spellings import SPELLINGS

ROWS = [row for row in TABLE.values() if row.gate is None]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling(spelling, dialect):
    name, parameters, function = SPELLINGS[spelling]
    gm = DIALECTS[dialect](function, torch.randn(3, 4))
    (entry,) = found(gm)
    assert entry[:2] == (name, parameters) and is_whole(gm, entry)


def called(row, *parameters):
    """Return torch's own function for a row."""
    function = getattr(F, row.torch, None) or getattr(torch, row.torch)
    return lambda x: function(x, *parameters, **dict(row.torch_keywords))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("row", [row for row in ROWS if row.torch], ids=lambda row: row.name)
def test_torch_function(row, dialect):
    gm = DIALECTS[dialect](called(row, *row.defaults), torch.randn(3, 4))
    (entry,) = found(gm)
    # Of two rows that are the same function, another dialect may name the other.
    same = {row.name, "hardtanh", "elu"} if dialect == "make_fx" else {row.name}
    assert entry[0] in same and is_whole(gm, entry)


MODULES = {
    nn.ReLU(): "relu",
    nn.LeakyReLU(0.2): "leaky_relu",
    nn.Threshold(0.1, -2.0): "threshold",
    nn.Hardsigmoid(): "hardsigmoid",
    nn.Hardtanh(-2, 3): "hardtanh",
    nn.ReLU6(): "relu6",
    nn.Hardshrink(0.3): "hardshrink",
    nn.Softshrink(0.3): "softshrink",
    nn.CELU(2.0): "celu",
    nn.ELU(0.7): "elu",
    nn.GELU(): "gelu",
    nn.GELU("tanh"): "gelu_tanh",
    nn.Hardswish(): "hardswish",
    nn.LogSigmoid(): "logsigmoid",
    nn.Mish(): "mish",
    nn.SELU(): "selu",
    nn.Sigmoid(): "sigmoid",
    nn.SiLU(): "silu",
    nn.Softplus(2.0): "softplus",
    nn.Softsign(): "softsign",
    nn.Tanh(): "tanh",
    nn.Tanhshrink(): "tanhshrink",
}


@pytest.mark.parametrize("module, name", MODULES.items(), ids=MODULES.values())
def test_module(module, name):
    assert names(symbolic(nn.Sequential(module))) == [name]


def test_every_torch_module_is_tried():
    assert set(MODULES.values()) == {row.name for row in ROWS if row.torch} - {"exp"}


# What transformers calls its activations; None for what the table does not hold.
TRANSFORMERS = {
    "gelu": "gelu",
    "gelu_10": ["gelu", "hardtanh"],
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "hardswish": "hardswish",
    "laplace": None,
    "leaky_relu": "leaky_relu",
    "linear": None,
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
    "relu6": "hardtanh",  # nn.ReLU6 is one, from 0 to 6
    "sigmoid": "sigmoid",
    "silu": "silu",
    "sqrtsoftplus": ["softplus"],
    "swish": "silu",
    "tanh": "tanh",
    "prelu": None,
    "xielu": ["softplus", "softplus"],  # of its parameters
}


def test_every_activation_of_transformers_is_tried():
    assert set(TRANSFORMERS) >= set(ACT2FN)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("spelling", [key for key in TRANSFORMERS if key in ACT2FN])
def test_transformers(spelling, dialect):
    if (spelling, dialect) == ("gelu_10", "symbolic_trace"):
        pytest.skip("symbolic_trace refuses it: it calls a module that is none of its own")
    if spelling == "linear" and dialect == "dynamo":
        pytest.skip("Dynamo makes no graph of a function that does nothing")
    gm = DIALECTS[dialect](ACT2FN[spelling], torch.randn(3, 4))
    wanted = TRANSFORMERS[spelling]
    assert names(gm) == (wanted if isinstance(wanted, list) else [wanted] if wanted else [])
    if isinstance(wanted, str):
        assert is_whole(gm, *found(gm))
