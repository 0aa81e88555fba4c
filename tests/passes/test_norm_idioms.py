"""LayerNorm and RMSNorm written by hand: found however they are spelled, in every dialect."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import fxmem
from fxmem.passes.forward.norms.idioms import INVARIANT

from .dialects import DIALECTS, aten, symbolic
from .tools import relative

C = 16


class Norm(nn.Module):
    """A function of x, a weight and a bias as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.gain, self.shift = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(C))

    def forward(self, x):
        return self.function(x, self.gain, self.shift)


def of_mean(x, g, b):
    centred = x - x.mean(-1, keepdim=True)
    return g * centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12) + b


def of_var(x, g, b):
    mean, var = x.mean(-1, True), x.var(-1, keepdim=True, unbiased=False)
    return b + (x - mean) * torch.rsqrt(1e-3 + var) * g


def of_var_mean(x, g, b):
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return torch.addcmul(b, (x - mean) / (var + 1e-5) ** 0.5, g)


def of_squares(x, g, b):
    mean = x.mean(-1).unsqueeze(-1)
    var = (x * x).mean(-1).unsqueeze(-1) - mean * mean
    return (x - mean) * (var + 1e-2).rsqrt() * g + b


def of_sum(x, g, b):
    return g.mul(x).div(((x**2).sum(-1, keepdim=True) / C + 1e-6).sqrt())


def in_float32(x, g, b):
    wide = x.float()
    return (wide * wide.square().mean(-1, keepdim=True).add(1e-6).rsqrt()).type_as(x) * g


def twice(x, g, b):
    return torch.rsqrt(torch.mean(x.pow(2), dim=-1, keepdim=True) + 1e-5) * x * (2.0 * g)


BY_HAND = {
    "layer_norm: means": ("layer_norm", of_mean),
    "layer_norm: var": ("layer_norm", of_var),
    "layer_norm: var_mean": ("layer_norm", of_var_mean),
    "layer_norm: squares": ("layer_norm", of_squares),
    "rms_norm: sum": ("rms_norm", of_sum),
    "rms_norm: in float32": ("rms_norm", in_float32),
    "rms_norm: twice the weight": ("rms_norm", twice),
}
NORMS = {name: (kind, lambda f=f: Norm(f)) for name, (kind, f) in BY_HAND.items()}
NORMS |= {
    kind.__name__: ("rms_norm", lambda kind=kind: kind(C))
    for kind in (LlamaRMSNorm, MistralRMSNorm, GemmaRMSNorm, T5LayerNorm)
}


class Block(nn.Module):
    """A linear layer keeps the norm's output; of its input nothing but the norm keeps anything."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.last = norm, nn.Linear(C, C)
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 1, 0.2)

    def forward(self, x):
        return self.last(self.norm(x * 2))


def gradients(run, x, module):
    given = (x, *(p for p in module.parameters() if p.requires_grad))
    return torch.autograd.grad(run(x).square().sum(), given, allow_unused=True)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_found(dialect, name):
    if (dialect, name) == ("symbolic_trace", "T5LayerNorm"):
        pytest.skip("its control flow depends on a dtype, which symbolic tracing does not know")
    kind, make = NORMS[name]
    x = torch.randn(3, 5, C).requires_grad_()
    model = Block(make())
    gm = fxmem.transform(DIALECTS[dialect](model, x))
    (found,) = fxmem.report(gm).entries
    assert found.rule == "norm_from_output" and found.nbytes == 0 and found.residual.op == kind
    assert f"operators_{kind}" in gm.code and "rsqrt" not in gm.code and "sqrt" not in gm.code
    if dialect in ("symbolic_trace", "make_fx"):  # others take parameters as inputs, or their own
        wanted = gradients(model, x, model)
        for value, other in zip(gradients(gm, x, model), wanted, strict=True):
            assert (value is None and other is None) or relative(value, other) < 1e-5


@pytest.mark.parametrize("name", ["layer_norm: means", "LlamaRMSNorm", "GemmaRMSNorm"])
def test_in_half_precision(name):
    """At most twice the error that the model has as it is written."""
    model = Block(NORMS[name][1]()).to(torch.bfloat16)
    x = torch.randn(64, C, dtype=torch.bfloat16, requires_grad=True)
    exact = copy.deepcopy(model).double()
    wanted = gradients(exact, x.detach().double().requires_grad_(), exact)
    gm = fxmem.transform(aten(model, x))
    assert [e.nbytes for e in fxmem.report(gm).entries] == [0]
    pairs = zip(gradients(gm, x, model), gradients(model, x, model), wanted, strict=True)
    for found, plain, true in pairs:
        if true is not None:
            assert relative(found, true) <= 2 * relative(plain, true)


def test_graph():
    gm = fxmem.transform(symbolic(Block(GemmaRMSNorm(C))))
    lines = [line.partition(";")[0].strip() for line in gm.code.strip().splitlines()[1:]]
    assert lines == [
        "mul = x * 2",
        "norm_weight = self.norm.weight",
        "float_2 = norm_weight.float()",
        "add_1 = 1.0 + float_2",
        "rms_norm = fxmem_ops_norms_operators_rms_norm(mul, (16,), eps = 1e-06, weight = add_1)",
        "last = self.last(rms_norm)",
        "return last",
    ]


def test_not_said_of_what_only_looks_like_one():
    def deviation(x, g, b):
        return g * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + b

    def detached(x, g, b):
        return x * torch.rsqrt(x.detach().pow(2).mean(-1, keepdim=True) + 1e-6) * g

    for function in (deviation, detached):
        gm = fxmem.transform(symbolic(Block(Norm(function))))
        assert not list(fxmem.report(gm).entries)
    note = fxmem.report(fxmem.transform(symbolic(Block(Norm(deviation))))).plans[0].notes
    assert [n.partition(": ")[2] for n in note] == [INVARIANT]


def test_other_dimensions_are_no_such_norm():
    across = lambda x: (x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-6)) @ x.t()  # noqa: E731
    gm = fxmem.transform(aten(across, torch.randn(4, C).requires_grad_()))
    assert not list(fxmem.report(gm).entries)


def test_frozen_weights():
    model = Block(GemmaRMSNorm(C))
    model.norm.requires_grad_(False)
    x = torch.randn(7, C).requires_grad_()
    gm = fxmem.transform(symbolic(model))
    assert "operators_rms_norm" in gm.code
    for value, wanted in zip(gradients(gm, x, model), gradients(model, x, model), strict=True):
        assert relative(value, wanted) < 1e-5
