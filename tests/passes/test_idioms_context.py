"""What is nearly an activation is none, and what stands around one decides whether it is taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxmem.passes.forward.activations import find
from fxmem.passes.forward.eager import plainly

from .dialects import DIALECTS, aten, dynamo, symbolic
from .matching import names

# Functions that are nearly an activation, and what is found in them all the same.
NEARLY = {
    "another constant": (lambda x: 0.5 * x * (1 + torch.erf(x / 1.4142)), []),
    "another power": (lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * x**3)), ["tanh"]),
    "a clamp far out": (lambda x: F.gelu(x).clamp(-50, 50), ["gelu", "hardtanh"]),
    "a clamp further out": (lambda x: F.gelu(x).clamp(max=3e38), ["gelu"]),
    "scaled before": (lambda x: F.gelu(2 * x), ["gelu"]),
    "scaled after": (lambda x: 2 * F.gelu(x), ["gelu"]),
    "two activations": (lambda x: F.gelu(torch.tanh(x)), ["tanh", "gelu"]),
    "no gradient inside": (lambda x: x * torch.sigmoid(x).detach(), ["sigmoid"]),
    "a straight line": (lambda x: 3 * x + 1, []),
    "a parabola": (lambda x: x * x, []),
    "a softmax": (lambda x: F.softmax(x, -1), []),
    "a running sum": (lambda x: x * torch.cumsum(x, 0), []),
    "random": (lambda x: F.rrelu(x, training=True), []),
    "two inputs": (lambda x: x * torch.sigmoid(x.t()).t(), ["sigmoid"]),
    "steps": (lambda x: torch.round(x), []),
}


@pytest.mark.parametrize("dialect", ["symbolic_trace", "export", "make_fx"])
@pytest.mark.parametrize("case", NEARLY)
def test_nearly(case, dialect):
    function, wanted = NEARLY[case]
    gm = DIALECTS[dialect](function, torch.randn(4, 4))
    assert names(gm) == wanted


def test_no_gradient_inside_a_mode():
    def f(x):
        with torch.no_grad():
            gate = torch.sigmoid(x)
        return x * gate

    assert names(dynamo(f, torch.randn(4))) == ["sigmoid"]


def test_a_value_overwritten_in_between():
    def f(x):
        h = x + 1
        gate = torch.sigmoid(h)
        h.mul_(2)
        return h * gate

    for dialect in DIALECTS.values():
        assert names(dialect(f, torch.randn(4))) == ["sigmoid"]


class Swish(nn.Module):
    def __init__(self, beta):
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_buffer_is_no_constant(dialect):
    assert names(DIALECTS[dialect](Swish(1.0), torch.randn(4))) == ["sigmoid"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_in_place_on_a_fresh_value(dialect):
    gm = DIALECTS[dialect](lambda x: F.relu(x + x.t(), inplace=True), torch.randn(4, 4))
    assert names(gm) == ["relu"]


SEEN = {
    "by its caller": lambda x: F.relu(x, inplace=True),
    "by a reader": lambda x: (lambda h: F.relu(h, inplace=True) + h)(x + x.t()),
    "by the owner of a view": lambda x: F.relu((x + 1)[0], inplace=True),
}


@pytest.mark.parametrize("case", SEEN)
def test_in_place_on_what_is_seen_is_refused(case):
    with plainly():
        activations, notes = find(symbolic(SEEN[case]).graph)
    assert not activations
    assert notes[0].startswith("relu: relu, but it overwrites ")
    assert notes[0].endswith(", which others may see")


def test_multi_use_takes_the_smaller_cone():
    def f(x):
        gate = torch.sigmoid(x)
        return x * gate + gate

    with plainly():
        activations, notes = find(symbolic(f).graph)
    assert [a.name for a in activations] == ["sigmoid"]
    assert notes == ["mul: silu, but add reads sigmoid inside of it"]


def test_what_a_tracer_leaves_over_is_no_use():
    gm = aten(lambda x: x * torch.sigmoid(x), torch.randn(4, requires_grad=True))
    assert "detach" in str(gm.graph) and names(gm) == ["silu"]


def test_hooks_keep_a_module_from_being_known():
    model = nn.Sequential(nn.GELU())
    model[0].register_forward_hook(lambda *_: None)
    assert names(symbolic(model)) == []


def test_a_function_of_the_same_name_is_not_torchs():
    def gelu(x):
        return x

    gm = symbolic(lambda x: F.gelu(x))
    (node,) = gm.graph.find_nodes(op="call_function", target=F.gelu)
    node.target = gelu
    assert names(gm) == []


CASTS = {
    "to half and back": (lambda x: F.silu(x.float()).to(torch.bfloat16), "placeholder"),
    "half throughout": (lambda x: F.silu(x), "placeholder"),
    "left in float32": (lambda x: F.silu(x.float()), "call_method"),
}


@pytest.mark.parametrize("dialect", ["dynamo", "symbolic_trace"])
@pytest.mark.parametrize("case", CASTS)
def test_casts(case, dialect):
    function, source = CASTS[case]
    gm = DIALECTS[dialect](function, torch.randn(4, dtype=torch.bfloat16))
    with plainly():
        ((activation,), _) = find(gm.graph)
    assert (activation.name, activation.cone.source.op) == ("silu", source)


def test_rounding_in_between_counts_where_the_input_is_wider():
    def rounded(x):
        return (x * torch.sigmoid(x.float()).bfloat16()).to(x.dtype)

    assert names(dynamo(rounded, torch.randn(4, dtype=torch.bfloat16))) == ["silu"]
    assert names(dynamo(rounded, torch.randn(4))) == ["sigmoid"]
    assert names(symbolic(rounded)) == ["sigmoid"]


def test_a_mode_that_ends_in_between():
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            gate = torch.sigmoid(x)
        return x * gate

    assert names(dynamo(f, torch.randn(4, requires_grad=True))) == ["sigmoid"]
