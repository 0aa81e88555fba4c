"""The backend and `last_report`: options, refusals, and what they leave untouched."""

import os
import subprocess
import sys
from collections import deque

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn

import fxmem
from fxmem import PolicyError, history, measure
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
    "an option's name that is no string": (
        {1: 2},
        f"unknown option '1'; allowed: {OWN}; and any of torch._inductor.list_options()",
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


def gradients(m, run):
    x = torch.linspace(-1, 1, 512 * 64, device=m[0].weight.device).view(512, 64)
    run(x).square().sum().backward()
    return [p.grad for p in m.parameters()]


def trained(options):
    m = model()
    return gradients(m, torch.compile(m, backend=backend, options=options))


def test_inner_aot_eager():
    torch._dynamo.reset()
    eager = model()
    for found, wanted in zip(trained(EAGER), gradients(eager, eager), strict=True):
        # float32 sums of 512 terms, in another order
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("preset", "bound", "share"),
    [("exact", 1e-5, 0.6), ("balanced", 0.01, 0.25), ("compact", 0.06, 0.2)],
)
def test_inductor_on_a_gpu(preset, bound, share):
    eager, m = model().cuda(), model().cuda()
    run = torch.compile(m, backend=backend, options={"preset": preset})
    wanted, found = gradients(eager, eager), gradients(m, run)
    for gradient, other in zip(wanted, found, strict=True):
        assert other.is_cuda and (other - gradient).norm() <= bound * gradient.norm()
    x = torch.ones(512, 64, device="cuda")
    plain, fewer = (measure.kept(lambda f=f: f(x).sum()).nbytes for f in (eager, run))
    assert fewer < share * plain


@pytest.mark.parametrize("sizes", [(300,), (2, 300)], ids=str)
def test_inner_eager_runs_eye(sizes):
    # Inductor counts up to 300 in uint16, which eager mode has no kernel for.
    def contrastive(x):
        own = torch.eye(*sizes)
        return (x.exp() * own.sum()).masked_fill(own[:2, :2] == 1, 0).sin()

    x = torch.linspace(-1, 1, 4).view(2, 2).requires_grad_()
    assert fxmem.explain(contrastive, x).plans
    compiled = torch.compile(contrastive, backend=backend, options=EAGER)
    found, wanted = (torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, contrastive))
    torch.testing.assert_close(found, wanted)


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
        "no graph was compiled with backend='fxmem' in this process; "
        "fxmem.explain(model, *inputs) gives a report"
    )


def test_last_report_is_of_what_was_compiled():
    trained({**EAGER, "preset": "balanced"})
    report = fxmem.last_report()
    assert [e.action for e in report.entries] == ["8 bits, groups of 64"]
    assert len(fxmem.last_report(2).plans) <= 2


def test_last_report_is_none_of_what_came_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def step():
        torch._dynamo.reset()
        x, w = (
            torch.ones(128, 128),
            torch.ones(128, 128, requires_grad=True),
        )  # products need no kernel
        torch.compile(lambda x, w: x @ x @ w, backend=backend)(x, w).backward(x)

    step()
    assert fxmem.last_report().kept == 128 * 128 * 4
    trained(EAGER)
    step()
    for graphs in (1, 2):
        with pytest.raises(LookupError) as error:
            fxmem.last_report(graphs)
        assert str(error.value) == (
            f"of the last {graphs} graphs 1 came from torch's compile cache, with no plan: "
            "fxmem.explain(model, *inputs) gives a report, and "
            "torch._functorch.config.enable_autograd_cache = False has graphs compiled anew"
        )
    trained(EAGER)
    assert fxmem.last_report().entries


def test_last_report_is_none_of_what_failed_to_compile():
    trained(EAGER)
    before = fxmem.last_report(2)

    def inner(gm, inputs):
        raise RuntimeError("the inner compiler fails")

    with pytest.raises(Exception, match="the inner compiler fails"):
        trained({"inner": inner, "preset": "balanced"})
    assert fxmem.last_report(2) == before


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


def test_options_are_a_dict():
    with pytest.raises(
        PolicyError, match=r"options must be a dict, as {'preset': 'balanced'}, got"
    ):
        read_options(None, fxmem.Policy("balanced"))
