"""What only NaN, infinity, a narrow band, a later write or a stride tells from an activation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from fxmem.transform import report, transform

from .blocks import quantized
from .dialects import DIALECTS, symbolic
from .matching import found, is_whole, names

INF = float("inf")
# Guards, and what is found beside them.
GUARDED = {
    "hit": (lambda x: F.gelu(x), "gelu"),
    "hit: the row has a limit, the spelling none": (lambda x: x / (x.abs() + 1), "softsign"),
    "hit: NaN falls to one side": (lambda x: torch.where(x > 0.3, x, 0.0), "threshold"),
    "hit: a clamp at a little, no relu": (lambda x: x.clamp(min=1e-8), "threshold"),
    "NaN replaced before": (lambda x: F.gelu(torch.nan_to_num(x)), "gelu"),
    "NaN replaced after": (lambda x: torch.nan_to_num(F.gelu(x)), "gelu"),
    "isnan": (lambda x: F.relu(torch.where(torch.isnan(x), 0.0, x)), "relu"),
    "not itself": (lambda x: F.silu(x.masked_fill(x != x, 0)), "silu"),
    "isfinite": (lambda x: torch.where(torch.isfinite(x), F.gelu(x), 0.0), "gelu"),
    "less than infinite": (
        lambda x: torch.where(x.abs() < INF, F.leaky_relu(x), 0.0),
        "leaky_relu",
    ),
    "more than minus infinity": (lambda x: F.relu(torch.where(x > -INF, x, 0.0)), "relu"),
    "a floor": (lambda x: torch.sigmoid(x) + 1e-8, "sigmoid"),
    "maximum but NaN": (lambda x: torch.fmax(x, torch.zeros_like(x)), None),
}


@pytest.mark.parametrize("dialect", ["symbolic_trace", "export", "make_fx"])
@pytest.mark.parametrize("case", GUARDED)
def test_guards_stay(case, dialect):
    function, name = GUARDED[case]
    gm = DIALECTS[dialect](function, torch.randn(4))
    entries = found(gm)
    assert [entry[0] for entry in entries] == ([name] if name else [])
    assert not name or is_whole(gm, *entries) == case.startswith("hit")
    # Not infinity: torch's own gelu is NaN there where it is vectorised.
    x = torch.tensor([-1.0, 0.5, -60.0, 2.0 if "one side" in case else torch.nan])
    new = transform(gm, quantized(bits=3))
    expected = function(x.requires_grad_())
    torch.testing.assert_close(new(x), expected, rtol=1e-6, atol=1e-12, equal_nan=True)


BANDS = {
    "below zero": (lambda x: torch.where(x > -0.02, x, 0.0), [("threshold", (-0.02, 0.0))]),
    "above zero": (lambda x: torch.where(x > 1e-3, x, 0.0), [("threshold", (1e-3, 0.0))]),
    "a mask": (lambda x: x * (x > 1e-3), [("threshold", (1e-3, 0.0))]),
    "a scaled one": (lambda x: x * (3 * x > 1e-6), []),
    "close to a default": (lambda x: x * (x.abs() > 0.5001), [("hardshrink", (0.5001,))]),
    "the number is in": (lambda x: torch.where(x >= 0.25, x, 0.0), []),
}


@pytest.mark.parametrize("dialect", ["symbolic_trace", "make_fx"])
@pytest.mark.parametrize("case", BANDS)
def test_narrow_bands(case, dialect):
    function, wanted = BANDS[case]
    gm = DIALECTS[dialect](function, torch.randn(3, 4))
    assert [entry[:2] for entry in found(gm)] == wanted
    x = torch.cat([torch.linspace(-0.03, 0.03, 600), torch.tensor([1e-7, 0.25, 0.50005])])
    new = transform(gm, quantized(bits=3))
    assert torch.equal(new(x.requires_grad_()), function(x))


class Slope(nn.Module):
    def __init__(self, learnable):
        super().__init__()
        self.slope = [torch.tensor(0.25, requires_grad=learnable)]

    def forward(self, x):
        return torch.where(x > 0, x, self.slope[0] * x)


def test_a_tensor_that_wants_a_gradient_is_no_constant():
    assert names(symbolic(Slope(False))) == ["leaky_relu"]
    model = Slope(True)
    new = transform(symbolic(model), quantized(bits=3))
    (found,) = torch.autograd.grad(new(torch.tensor([-2.0, 1.0])).sum(), model.slope)
    assert found == -2


def _formatted(x):
    return x.to(memory_format=torch.channels_last)


def _viewed(x):
    return x.permute(0, 2, 3, 1).view(-1, 3)


def _turned(x):
    return x.transpose(1, 3).contiguous()


# Each ends in a view that needs the strides that the program asked for.
LAYOUTS = {
    "before": lambda x: F.gelu(_turned(x)).view(-1, 3),
    "after": lambda x: F.gelu(x.transpose(1, 3)).contiguous().view(-1, 3),
    "inside": lambda x: (torch.sigmoid(h := _turned(x)) * h).view(-1, 3),
    "of a factor": lambda x: (torch.sigmoid(_turned(x)) * x.transpose(1, 3)).reshape(-1, 3),
    "of a gate": lambda x: (F.silu(_turned(x)) * _turned(x + 1)).view(-1, 3),
    "clone": lambda x: F.tanh(x.mT.clone(memory_format=torch.contiguous_format)).view(-1, 3),
    "channels last before": lambda x: _viewed(F.silu(_formatted(x))),
    "channels last after": lambda x: _viewed(_formatted(F.silu(x))),
}


@pytest.mark.parametrize("policy", [None, quantized(bits=8)], ids=["exact", "8 bits"])
@pytest.mark.parametrize("dialect", ["symbolic_trace", "export", "make_fx"])
@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_stay(case, dialect, policy):
    weight, x = torch.randn(3, 2, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True)

    def function(x, weight):
        return LAYOUTS[case](x) @ weight

    gm = DIALECTS[dialect](function, x, weight)
    assert names(gm)
    new = transform(gm, policy)
    assert case == "of a factor" or any(hasattr(e, "action") for e in report(new).entries)
    exact = torch.autograd.grad(function(x, weight).sum(), (x, weight))
    found = torch.autograd.grad(new(x, weight).sum(), (x, weight))
    torch.testing.assert_close(new(x, weight), function(x, weight))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_a_copy_protects_from_what_is_written_later():
    def function(x, weight, up):
        gate = x @ weight
        output = F.silu(gate.clone()) * up
        gate.mul_(2)
        return output

    given = [torch.randn(8, 8, requires_grad=i > 0) for i in range(3)]
    gm = symbolic(function)
    ShapeProp(gm).propagate(*given)
    new = transform(gm)
    (entry,) = report(new).entries
    assert entry.rule == "gated"
    exact = torch.autograd.grad(function(*given).sum(), given[1:])
    torch.testing.assert_close(torch.autograd.grad(new(*given).sum(), given[1:]), exact)
