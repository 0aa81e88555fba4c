"""Layers of a graph that compute in integers: which, in every dialect, and what is said of those
that stay."""

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline as expect
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxmem
from fxmem import integer
from fxmem.measure import kept
from fxmem.passes.forward.asked import rewrite_asked
from fxmem.passes.graph import stable_text
from fxmem.plan import Refusal, Site

from .dialects import DIALECTS, symbolic

END = "the {} layer of this graph stays as it is, without the option first_and_last"
METHODS = ("int8", "wageubn8", "dorefa:1,2,32", "binarynet", "xnor", "bwn")


class Perceptron(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, 4)
        self.middle = nn.Linear(width, width)

    def forward(self, x):
        return self.last(self.middle(self.first(x).tanh()).tanh())

    def expected(self, x, method):
        middle = self.middle.weight, self.middle.bias
        return self.last(integer.linear(self.first(x).tanh(), *middle, method).tanh())


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, 2, 1, bias=False)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.middle(self.first(x).tanh()).mean((2, 3)))

    def expected(self, x, method):
        x = integer.conv2d(self.first(x).tanh(), self.middle.weight, None, 2, 1, method=method)
        return self.last(x.mean((2, 3)))


MODELS = {"perceptron": (Perceptron, (6, 8)), "images": (Images, (2, 3, 8, 8))}


def asked(method, **options):
    return {"rules": {"integer": {"method": method, **options} if options else method}}


def parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def refusals(gm):
    found = [e for e in fxmem.report(gm).entries if e.rule == "integer"]
    return {e.residual.module: e.why for e in found if isinstance(e, Refusal)}


def same_step(run, wanted, model, x):
    """Whether values and gradients are the same numbers."""
    y, other = run(x), wanted(x)
    assert torch.equal(y, other)
    pairs = (torch.autograd.grad(o.square().sum(), parameters(model)) for o in (y, other))
    for one, two in zip(*pairs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_hit():
    gm = fxmem.transform(symbolic(Perceptron()), asked("int8"))
    # The middle layer alone is an operator of ours, which reads the module's own parameters.
    expect(
        stable_text(gm.graph),
        """\
x
first = first(x)
tanh = tanh(first)
middle_weight = middle.weight()
middle_bias = middle.bias()
integer_linear_default = fxmem.integer_linear.default(tanh, middle_weight, middle_bias, int8)
getitem = getitem(integer_linear_default, 0)
tanh_1 = tanh(getitem)
last = last(tanh_1)
return last""",
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_trains_as_the_layers_by_hand(name, method):
    make, size = MODELS[name]
    model, x = make(), torch.randn(size)
    gm = fxmem.transform(symbolic(model), asked(method))
    same_step(gm, lambda x: model.expected(x, method), model, x)


@pytest.mark.parametrize("dialect", ["symbolic_trace", "dynamo", "export"])
@pytest.mark.parametrize("name", MODELS)
def test_in_every_dialect(name, dialect):
    make, size = MODELS[name]
    model, x = make(), torch.randn(size)
    gm = fxmem.transform(DIALECTS[dialect](model, x), asked("wageubn8"))
    calls = [n.target for n in gm.graph.nodes if "fxmem" in str(n.target)]
    assert len(calls) == 1
    (site,) = (e for e in fxmem.report(gm).entries if e.rule == "integer" and isinstance(e, Site))
    assert site.action == "wageubn8: its input kept in at most 8 bits"
    if dialect != "symbolic_trace":
        assert site.nbytes * 4 == site.residual.nbytes > 0


@pytest.mark.parametrize("name", MODELS)
def test_compiled(name):
    make, size = MODELS[name]
    model, x = make(), torch.randn(size)
    options = {**asked("int8"), "inner": "aot_eager"}
    compiled = torch.compile(model, backend="fxmem", options=options)
    torch._dynamo.reset()
    same_step(compiled, lambda x: model.expected(x, "int8"), model, x)


def test_compiled_keeps_the_codes():
    """Behind relu, whose sign is a bit an element, the codes alone are kept of the input."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, 1)]
    model, x, n = nn.Sequential(*layers), torch.randn(512, 8), 512 * 256
    sizes = {}
    for method, rules in {None: {}, **{m: {"integer": m} for m in ("int8", "xnor")}}.items():
        torch._dynamo.reset()
        options = {"rules": rules, "inner": "aot_eager", "min_bytes": 0}
        compiled = torch.compile(model, backend="fxmem", options=options)
        sizes[method] = kept(lambda run=compiled: run(x)).nbytes
    # Of x: its codes and relu's bit in place of float32; of the weight nothing; and scales.
    assert 0 <= sizes["int8"] - sizes[None] + (4 - 1 - 1 / 8) * n < 8192
    assert 0 <= sizes["xnor"] - sizes[None] + (4 - 3 / 8) * n < 8192


def test_first_and_last_if_asked_for():
    model, x = Perceptron(), torch.randn(6, 8)
    gm = fxmem.transform(symbolic(model), asked("int8", first_and_last=True))
    calls = [n for n in gm.graph.nodes if n.target is torch.ops.fxmem.integer_linear.default]
    assert len(calls) == 3
    gm(x).sum().backward()
    assert all(p.grad is not None for p in parameters(model))


def test_conv1d():
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 3, 2, 1), nn.Conv1d(4, 3, 1))
    x = torch.randn(2, 3, 9)
    gm = fxmem.transform(symbolic(model), asked("dorefa:2,4,32"))
    middle = integer.conv1d(
        model[0](x), model[1].weight, model[1].bias, 2, 1, method="dorefa:2,4,32"
    )
    assert torch.equal(gm(x), model[2](middle))
    assert gm(x[0]).shape == model(x[0]).shape


def test_frozen_layers_compute_and_count_as_the_others():
    """All of them; and the first layer is the model's, not the first of those that are trained."""
    for frozen in ("", "first", "middle"):
        model = Perceptron()
        model.get_submodule(frozen).requires_grad_(False)
        gm, x = fxmem.transform(symbolic(model), asked("int8")), torch.randn(6, 8)
        assert torch.equal(gm(x), model.expected(x, "int8"))
        assert refusals(gm).keys() == {"first", "last"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_compiled_for_use_alone(mode):
    """A model that is not trained, or not now, computes in the integers it was trained in."""
    torch._dynamo.reset()
    model, x = Perceptron().requires_grad_(mode is not torch.enable_grad), torch.randn(6, 8)
    options = {**asked("binarynet"), "inner": "aot_eager"}
    with mode():
        y = torch.compile(model, backend="fxmem", options=options)(x)
        assert torch.equal(y, model.expected(x, "binarynet"))
    report = str(fxmem.last_report())
    assert "1 x linear: integer, binarynet" in report and "fxmem (bounded)" in report


def test_a_model_without_layers_is_told():
    gm = fxmem.transform(symbolic(lambda x: F.gelu(x)), asked("int8"))
    sentence = "integer: no linear layer or convolution is here"
    assert sentence in str(fxmem.report(gm))
    plan = rewrite_asked(symbolic(lambda x: F.gelu(x)), fxmem.Policy(**asked("int8")))
    assert sentence in plan.notes and plan.rewritten == "exact"


class Hidden(nn.Module):
    """Layers in bodies: of a checkpoint, and of the two branches of a cond."""

    def __init__(self, outside):
        super().__init__()
        self.first, self.second, self.out = (nn.Linear(4, 4) for _ in range(3))
        self.outside = outside

    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=False)
        x = torch.cond(x.sum() > 0, self.second, lambda x: self.second(-x), (x,))
        return self.out(x) if self.outside else x


@pytest.mark.parametrize("outside", [False, True])
def test_layers_in_bodies_are_told(outside):
    torch._dynamo.reset()
    options = {**asked("int8"), "inner": "aot_eager"}
    torch.compile(Hidden(outside), backend="fxmem", options=options)(torch.randn(3, 4))
    notes = fxmem.last_report().plans[0].notes
    inside = "integer: 3 x layer in a checkpoint, a cond or the like, which is left as it is"
    assert inside in notes and not any("no linear layer" in note for note in notes)
    assert any(END.format("last") in note for note in notes) == outside


def test_compiled_notes_say_what_became_of_the_layers():
    plan = rewrite_asked(symbolic(Perceptron()), fxmem.Policy(**asked("xnor")))
    assert "1 x linear: integer, xnor: its input kept in at most 2 bits" in plan.notes
    assert f"1 x linear: kept: {END.format('last')}" in plan.notes
    assert plan.rewritten == "bounded"
