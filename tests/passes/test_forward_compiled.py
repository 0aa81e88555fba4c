"""The rules on activations under torch.compile(backend="fxmem"): only by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxmem
from fxmem.backend import fxmem as backend

from .blocks import EXACT, Block, errors, gradients, sample
from .dialects import symbolic
from .tools import relative

QUANTIZED = {"quantized_gradient": {"bits": 3}}
RULES = {**QUANTIZED, "from_output": True}


def test_by_name_alone():
    graphs = fxmem.explain(Block(), sample()).graphs
    assert not any("few_bit" in half.code for pair in graphs for half in pair)


def test_every_activation_becomes_its_operator():
    report = fxmem.explain(Block(), sample(), policy={"rules": RULES})
    ((forward, backward),) = report.graphs
    assert forward.code.count("fxmem.from_output.default(") == 3
    assert backward.code.count("fxmem.from_output_backward.default(") == 3
    assert report.plans[0].notes[:2] == (
        "1 x gelu: from_output, kept as its output and a branch bit, slope within 1.4e-04: 96 -> 1 bits an element",
        "1 x silu: from_output, kept as its output and a branch bit, slope within 1.2e-04: 32 -> 1 bits an element",
    )


def test_the_report_says_what_it_costs():
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    policy = {"rules": QUANTIZED}
    report = fxmem.explain(model, torch.randn(64, 64), policy=policy)
    plain = fxmem.explain(model, torch.randn(64, 64))
    assert report.baselines["inductor"] == plain.baselines["inductor"]
    # The cut would have kept x alone, and computed y again: the codes come on top of y.
    assert report.baselines["fxmem, without rules asked for"] == plain.kept == 64 * 64 * 4
    assert report.kept == 64 * 64 * 4 + 64 * 64 * 3 // 8


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@torch._functorch.config.patch(enable_autograd_cache=False)  # a graph from it has no report
def test_trains(inner):
    model, x = Block(), sample()
    options = {"rules": {"from_output": True, "gated": True}, "inner": inner}
    found = gradients(torch.compile(model, backend=backend, options=options), model, x)
    assert max(errors(found, gradients(model, model, x))) < EXACT
    report = fxmem.last_report()
    assert report.plans[0].notes[1].startswith("1 x silu: gated, kept as gate and factor")


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_quantized_gradients_are_those_of_eager(inner):
    model, x = Block(), sample()
    rules = {"rules": QUANTIZED}
    options = {**rules, "inner": inner}
    found = gradients(torch.compile(model, backend=backend, options=options), model, x)
    forbidden = {"rules": {**QUANTIZED, "from_output": False, "gated": False}}
    eager = fxmem.transform(symbolic(model), forbidden)
    # A value that a compiler rounds otherwise may fall beyond a border.
    assert max(errors(found, gradients(eager, model, x))) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_what_quantizes_a_half_is_no_part_of_an_activation(dtype):
    w = torch.randn(64, 64).div(8).bfloat16().requires_grad_()

    def network(x):
        return (F.silu(x @ w) * 16).to(dtype).to(x.dtype) / 16

    x, options = torch.randn(64, 64).bfloat16(), {"rules": RULES, "inner": "aot_eager"}
    compiled = torch.compile(network, backend=backend, options=options)
    assert torch.equal(compiled(x), network(x))
    assert fxmem.last_report().plans[0].notes[0].startswith("1 x silu: ")


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_unbiased_codes_are_drawn_in_every_step(inner):
    model, x = nn.Sequential(nn.Linear(16, 16), nn.GELU()), sample()
    options = {"rules": {"quantized_gradient": {"bits": 1, "unbiased": True}}, "inner": inner}
    compiled = torch.compile(model, backend=backend, options=options)
    exact = gradients(model, model, x)[1]
    runs = torch.stack([gradients(compiled, model, x)[1] for _ in range(200)])
    assert not torch.equal(runs[0], runs[1])
    assert relative(runs.mean(0), exact) < 0.15 < relative(runs[0], exact)


def test_inference_is_left_alone():
    compiled = []

    def inner(gm, inputs):
        compiled.append(gm)
        return gm.forward

    options = {"rules": QUANTIZED, "inner": inner}
    with torch.no_grad():
        torch.compile(Block(), backend=backend, options=options)(sample())
    assert all("few_bit" not in gm.code for gm in compiled) and compiled
