"""A gated pair with the linear layer that reads it: in which graphs, and where not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralMLP

from fxmem.backend import fxmem as backend
from fxmem.transform import report, transform

from .blocks import Gated, errors, gradients
from .dialects import DIALECTS, aten, dynamo, exported, symbolic

ROUNDING = 1e-6


def sample():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def calls(gm):
    """Return how often each of the two operators stands in a graph."""
    return gm.code.count("fxmem.gated.default("), gm.code.count("fxmem.gated_linear.default(")


class Shared(Gated):
    """The product, as its linear layer reads it."""

    def forward(self, x):
        return self.read(F.silu(self.gate(x)) * self.up(x))

    def read(self, product):
        return self.down(product)


class Function(Shared):
    def read(self, product):
        return F.linear(product, self.down.weight, self.down.bias)


class Keywords(Shared):
    def read(self, product):
        return F.linear(weight=self.down.weight, input=product, bias=self.down.bias)


class Sigmoid(Gated):
    """The gate of GLU: eager keeps as little for it, but for the product."""

    def forward(self, x):
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


def without_bias():
    model = Gated()
    model.down = nn.Linear(16, 8, bias=False)
    return model


def mistral():
    return MistralMLP(MistralConfig(hidden_size=8, intermediate_size=16))


HITS = {
    "module": Gated,
    "module without bias": without_bias,
    "commuted": lambda: Gated(commuted=True),
    "function": Function,
    "function with keywords": Keywords,
    "sigmoid": Sigmoid,
    "transformers": mistral,
}


@pytest.mark.parametrize("dialect", ["symbolic_trace", "dynamo", "export"])
@pytest.mark.parametrize("case", HITS)
def test_hits(case, dialect):
    model, x = HITS[case](), sample()
    exact = gradients(model, model, x)
    new = transform(DIALECTS[dialect](model, x))
    (found,) = report(new).entries
    before = 64 if case == "sigmoid" else 96
    assert found.action == (
        f"kept as gate and factor of a linear layer's input: {before} -> 32 bits an element"
    )
    assert calls(new) == (0, 1)
    if dialect != "dynamo":  # its graphs take the parameters as inputs
        assert max(errors(gradients(new, model, x), exact)) < ROUNDING


class Elsewhere(Shared):
    def read(self, product):
        return self.down(product), product.sum()


class Returned(Shared):
    def read(self, product):
        return self.down(product), product


class Twice(Shared):
    def read(self, product):
        return self.down(product) + F.linear(product, torch.ones(8, 16))


class Overwritten(Shared):
    def forward(self, x):
        product = F.silu(self.gate(x)) * self.up(x)
        x.add_(1)
        return self.down(product)


class AsWeight(Shared):
    def read(self, product):
        return F.linear(product, product)


class Scaled(Shared):
    def read(self, product):
        return self.down(product * 2)


class Hooked(Gated):
    def __init__(self):
        super().__init__()
        self.down.register_forward_hook(lambda module, given, output: output * 2)


def frozen():
    model = Gated()
    model.down.weight.requires_grad_(False)
    return model


# Each breaks one precondition, and no other: the pair is taken alone.
REFUSED = {
    "used elsewhere": (Elsewhere, "sum_1 reads mul beside down"),
    "returned": (Returned, "output reads mul beside down"),
    "read by two layers": (Twice, "linear reads mul beside down"),
    "overwriting in between": (Overwritten, "something is overwritten before down reads mul"),
    "the weight as well": (AsWeight, None),
    "read through another": (Scaled, None),
    "a layer with a hook": (Hooked, None),
    "frozen": (frozen, None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    make, why = REFUSED[case]
    new = transform(symbolic(make()))
    (found,) = report(new).entries
    what = f"kept as gate and factor, and their product, for {why}" if why else "kept as gate and"
    assert found.action.startswith(what) and found.action.endswith("64 -> 32 bits an element")
    assert calls(new) == (1, 0)


def test_refuses_a_weight_of_unknown_rank():
    class Given(Shared):
        def forward(self, x, weight):
            return F.linear(F.silu(self.gate(x)) * self.up(x), weight)

    (found,) = report(transform(symbolic(Given()))).entries
    assert "for the weight of linear is not known to be a matrix" in found.action
    vector = transform(dynamo(Given(), sample(), torch.ones(16, requires_grad=True)))
    assert calls(vector) == (1, 0)
    matrix = transform(dynamo(Given(), sample(), torch.ones(3, 16, requires_grad=True)))
    assert calls(matrix) == (0, 1)


def test_layers_one_after_the_other():
    class Deep(nn.Sequential):
        def __init__(self):
            super().__init__(Gated(), nn.GELU(), Gated(), nn.Linear(8, 8))

    model, x = Deep(), sample()
    new = transform(symbolic(model))
    assert calls(new) == (0, 2)
    assert max(errors(gradients(new, model, x), gradients(model, model, x))) < 1e-4


def test_products_of_matrices_are_left_alone():
    assert calls(transform(aten(Gated(), sample()))) == (1, 0)


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_trains_in_another_compiler(inner):
    model, x = mistral(), sample()
    new = torch.compile(transform(symbolic(model)), backend=inner, fullgraph=True)
    assert max(errors(gradients(new, model, x), gradients(model, model, x))) < ROUNDING


def test_trains_in_our_own_only_by_name():
    model, x = mistral(), sample()
    graphs = []

    def inner(gm, inputs):
        graphs.append(gm)
        return gm.forward

    for rules, count in (({}, 0), ({"gated": True}, 1)):
        torch._dynamo.reset()
        options = {"rules": rules, "inner": inner}
        new = torch.compile(model, backend=backend, options=options)
        assert max(errors(gradients(new, model, x), gradients(model, model, x))) < ROUNDING
        assert sum("gated_linear.default(" in gm.code for gm in graphs) == count


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled):
    model, x = mistral(), sample()
    new = transform(exported(model, sample()))
    if compiled:
        torch._dynamo.reset()
        new = torch.compile(new, backend="aot_eager", fullgraph=True)

    def under(function):
        def call(x):
            with torch.autocast("cpu", torch.bfloat16):
                return function(x)

        return call

    found, exact = gradients(under(new), model, x), gradients(under(model), model, x)
    assert [f.dtype for f in found] == [e.dtype for e in exact]
    assert max(errors(found, exact)) < 2e-2  # a few roundings in bfloat16
