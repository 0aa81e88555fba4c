"""The backend, `explain` and `last_report`: options, refusals, and what they leave untouched."""

import os
import subprocess
import sys
from collections import deque

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn

import fxmem
from fxmem import PolicyError, history
from fxmem.backend import fxmem as backend
from fxmem.backend import read_options

OWN = "preset, bits, group, rounding, min_bytes, budget, rules, inner, mode"
EAGER = {"inner": "aot_eager"}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))


REFUSED = {
    "unknown option": (
        {"presets": "exact"},
        f"unknown option 'presets' (did you mean 'preset'?); allowed: {OWN}; "
        "and any of torch._inductor.list_options()",
    ),
    "unknown inner": (
        {"inner": "nvfuser"},
        "inner must be one of 'inductor', 'aot_eager' or a callable, got 'nvfuser'",
    ),
    "Inductor's option for another compiler": (
        {"inner": "aot_eager", "max_autotune": True},
        "max_autotune: an option of Inductor's, but inner is 'aot_eager'",
    ),
    "Inductor's mode for another compiler": (
        {"inner": "aot_eager", "mode": "max-autotune"},
        "mode='max-autotune': an option of Inductor's, but inner is 'aot_eager'",
    ),
    "impossible policy": (
        {"budget": 2},
        "budget must be a number in (0, 1], got 2",
    ),
}


@pytest.mark.parametrize("options, sentence", REFUSED.values(), ids=REFUSED)
def test_refused(options, sentence):
    with pytest.raises(PolicyError) as error:
        read_options(None, options)
    assert str(error.value) == sentence


def test_a_refusal_reaches_the_user():
    run = torch.compile(model(), backend=backend, options={"presets": "exact"})
    with pytest.raises(Exception, match="unknown option 'presets'"):
        run(torch.randn(4, 64))


def test_options_are_sorted():
    given = {"preset": "compact", "bits": 2, "max-autotune": True, "epilogue_fusion": False}
    policy, inner, inductor = read_options(None, given)
    assert policy == fxmem.Policy("compact", bits=2)
    assert inner == "inductor"
    assert inductor == {"max_autotune": True, "epilogue_fusion": False}


@pytest.mark.parametrize("mode", ["max-autotune-no-cudagraphs", "reduce-overhead"])
def test_modes_are_inductors(mode):
    expected = torch._inductor.list_mode_options()[mode]
    assert expected
    assert read_options(mode, {})[2] == read_options(None, {"mode": mode})[2] == expected


def test_inductor_gets_the_partitioner_and_the_options(monkeypatch):
    seen = {}

    def compile_fx(gm, inputs, config_patches):
        seen.update(config_patches)
        return gm

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    options = {"preset": "balanced", "max_autotune": True}
    torch.compile(model(), backend=backend, options=options)(torch.randn(4, 64))
    assert seen["max_autotune"] is True
    assert seen["custom_partitioner_fn"].policy == fxmem.Policy("balanced")


def trained(options):
    m, x = model(), torch.linspace(-1, 1, 512 * 64).view(512, 64)
    torch.compile(m, backend=backend, options=options)(x).square().sum().backward()
    return [p.grad for p in m.parameters()]


def test_inner_aot_eager():
    torch._dynamo.reset()
    eager = model()
    eager(torch.linspace(-1, 1, 512 * 64).view(512, 64)).square().sum().backward()
    for found, parameter in zip(trained(EAGER), eager.parameters(), strict=True):
        # float32 sums of 512 terms, in another order
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4)


def test_inner_callable():
    compiled = []

    def inner(gm, inputs):
        compiled.append(gm)
        return make_boxed_func(gm.forward)

    trained({"inner": inner, "preset": "balanced"})
    targets = [{str(n.target) for n in gm.graph.nodes} for gm in compiled]
    assert len(compiled) == 2
    assert "fxmem.encode.default" in targets[0] and "fxmem.decode.default" in targets[1]


def test_inference_keeps_nothing(monkeypatch):
    monkeypatch.setattr(history, "_plans", deque())
    with torch.no_grad():
        torch.compile(model(), backend=backend, options=EAGER)(torch.randn(4, 64))
    assert not history._plans


def test_no_report_before_anything_was_compiled(monkeypatch):
    monkeypatch.setattr(history, "_plans", deque())
    with pytest.raises(LookupError) as error:
        fxmem.last_report()
    assert str(error.value) == (
        "no graph was compiled with backend='fxmem' in this process (or all came from torch's "
        "compile cache); fxmem.explain(model, *inputs) gives a report"
    )


def test_last_report_is_of_what_was_compiled():
    trained({**EAGER, "preset": "balanced"})
    report = fxmem.last_report()
    assert [e.action for e in report.entries] == ["8 bits, groups of 64"]
    assert len(fxmem.last_report(2).plans) <= 2


def test_log(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n"
        "from fxmem.backend import fxmem\n"
        "options = {'inner': 'aot_eager'}\n"
        "f = torch.compile(lambda x: (x @ x).sin(), backend=fxmem, options=options)\n"
        "f(torch.ones(128, 128, requires_grad=True)).sum().backward()\n"
    )
    for setting, expected in (("+fxmem", True), ("fxmem", False)):
        environment = {**os.environ, "TORCH_LOGS": setting}
        run = [sys.executable, str(program)]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        assert ("aten.mm  float32[128, 128]" in done.stderr) == expected, done.stderr


def test_explain_reports_and_holds_the_graphs():
    report = fxmem.explain(model(), torch.randn(512, 64), policy="balanced")
    ((forward, backward),) = report.graphs
    assert "fxmem.encode" in forward.code and "fxmem.decode" in backward.code
    assert report.kept < report.before <= report.baselines["inductor"]
    assert [e.residual.module for e in report.entries] == ["0"]


def test_explain_takes_a_compiled_model():
    report = fxmem.explain(torch.compile(model(), backend="eager"), torch.randn(512, 64))
    assert [e.residual.module for e in report.entries] == ["0"]


def test_explain_takes_several_random_ops():
    m = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1), nn.GELU(), nn.Dropout(0.1))
    assert "bool" not in {e.residual.dtype for e in fxmem.explain(m, torch.randn(64, 64)).entries}


def test_explain_of_a_broken_graph_has_two_plans():
    def broken(x, w):
        y = (x @ w).sin()
        torch._dynamo.graph_break()
        return y.cos() @ w

    w = torch.randn(64, 64, requires_grad=True)
    report = fxmem.explain(broken, torch.randn(64, 64), w)
    assert len(report.plans) == len(report.graphs) == 2


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x, fail=False):
        y = self.norm(x)
        torch._dynamo.graph_break()
        if fail:
            raise RuntimeError("the model fails")
        return y + torch.rand(1)


@pytest.mark.parametrize("fail", [False, True])
def test_explain_leaves_buffers_and_random_state_as_they_were(fail):
    m = Failing()
    before = {name: value.clone() for name, value in m.state_dict().items()}
    state = torch.get_rng_state()
    if fail:
        with pytest.raises(RuntimeError, match="the model fails"):
            fxmem.explain(m, torch.randn(16, 8, generator=torch.Generator()), fail=True)
    else:
        fxmem.explain(m, torch.randn(16, 8, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())


def test_explain_where_nothing_is_kept():
    with pytest.raises(ValueError) as error, torch.no_grad():
        fxmem.explain(model(), torch.randn(4, 64))
    assert str(error.value) == (
        "nothing is kept: no output of the model depends on what requires a gradient"
    )


def test_explain_refuses_an_impossible_policy():
    with pytest.raises(PolicyError, match="preset must be one of"):
        fxmem.explain(model(), torch.randn(4, 64), policy="tiny")
