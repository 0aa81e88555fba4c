"""Piecewise linear activations that would keep a tensor for themselves alone keep exact codes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxmem
from fxmem.measure import kept

INT8 = {"rules": {"integer": {"method": "int8", "first_and_last": True}}}


class Net(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 8)
        self.f = f

    def forward(self, x):
        return self.f(self, self.a(x))


def twice(y):
    return y.sum() + y.exp().sum()


def transformed(f, policy=None):
    torch.manual_seed(0)
    return fxmem.transform(torch.fx.symbolic_trace(Net(f)), policy)


def taken(gm):
    return [n for n in gm.graph.nodes if n.target is torch.ops.fxmem.few_bit.default]


HITS = {
    "integers": (lambda m, x: m.b(F.relu(x)), INT8),
    "two readers, a view": (lambda m, x: m.b(F.relu(x)) + m.b(x.relu().flip(0).view(-1, 24)), INT8),
    "by hand": (lambda m, x: m.b(torch.where(x > 0, x, 0.0)), INT8),
    "a sum": (lambda m, x: F.relu(x).sum(1), None),
    "a mean of two": (lambda m, x: (F.hardtanh(x) + F.relu6(x + 1)).mean(), None),
}


@pytest.mark.parametrize("f, policy", HITS.values(), ids=HITS)
def test_taken(f, policy):
    gm = transformed(f, policy)
    torch.manual_seed(0)
    plain = Net(f)
    found = []
    for model in (gm, plain) if policy is None else (gm,):
        x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = model(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, model.a.weight])))
    assert taken(gm)
    for pair in zip(*found, strict=True):
        torch.testing.assert_close(pair[0], pair[-1], rtol=0, atol=0)


def test_integer_layers_keep_less_than_floats():
    x = torch.randn(64, 16)
    f = HITS["integers"][0]
    codes = {"codes": INT8, "none": {"rules": {**INT8["rules"], "exact_codes": False}}}
    found = {name: kept(lambda p=p: transformed(f, p)(x)).nbytes for name, p in codes.items()}
    assert found["none"] - found["codes"] == 64 * 24 * 4 - 64 * 24 // 8


REFUSED = {
    "the product keeps it": (lambda m, x: m.b(F.relu(x)), None),
    "a layer of real inputs keeps it": (
        lambda m, x: m.b(F.relu(x)),
        {"rules": {"integer": {"method": "binaryconnect", "first_and_last": True}}},
    ),
    "one reader of two keeps it": (lambda m, x: twice(F.relu(x)), None),
    "a pool keeps it": (lambda m, x: F.avg_pool1d(F.relu(x), 2), None),
    "an unknown reader": (lambda m, x: F.relu(x).sort().values, None),
    "its output is returned": (lambda m, x: F.relu(x), None),
    "smooth": (lambda m, x: m.b(F.gelu(x)), INT8),
    "forbidden": (lambda m, x: F.relu(x).sum(), {"rules": {"exact_codes": False}}),
}


@pytest.mark.parametrize("f, policy", REFUSED.values(), ids=REFUSED)
def test_left(f, policy):
    assert not taken(transformed(f, policy))
