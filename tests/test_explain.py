"""`fxmem.explain`: what its report has, what it leaves untouched, and where it says no."""

import pytest
import torch
from torch import nn

import fxmem
from fxmem import PolicyError
from fxmem.measure import kept


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))


def test_explain_reports_and_holds_the_graphs():
    report = fxmem.explain(model(), torch.randn(512, 64), policy="balanced")
    ((forward, backward),) = report.graphs
    assert "fxmem.encode" in forward.code and "fxmem.decode" in backward.code
    assert report.kept < report.before <= report.baselines["inductor"]
    assert [e.residual.module for e in report.entries] == ["0"]


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = model()

    def forward(self, x):
        return self.inner(x).square().mean()


def by_call(m, **options):
    return torch.compile(m, backend="fxmem", options=options)


def in_place(m, **options):
    m.compile(backend="fxmem", options=options)
    return m


@pytest.mark.parametrize("compiled", [by_call, in_place])
def test_explain_takes_a_compiled_model_as_what_it_was_made_of(compiled):
    x, policy = torch.randn(512, 64), {"rules": {"sketch": {"ratio": 0.2, "force": True}}}
    wanted = fxmem.explain(Loss(), x, policy=policy)
    found = fxmem.explain(compiled(Loss(), preset="compact", inner="aot_eager"), x, policy=policy)
    assert found.baselines == wanted.baselines
    assert found.kept == wanted.kept
    notes = [sum("the batch's own" in n for n in r.plans[-1].notes) for r in (found, wanted)]
    assert notes[0] == notes[1] > 0


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


@torch._dynamo.disable
def left_to_python(x):
    return x.exp().sin()


def test_what_is_left_to_eager_mode_counts():
    def broken(x, w):
        return left_to_python((x @ w).sin()).cos() @ w

    w = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(64, 64)
    report = fxmem.explain(broken, x, w)
    assert report.outside == 2 * 64 * 64 * 4  # of exp and of sin
    compiled = torch.compile(broken, backend="fxmem", options={"inner": "aot_eager"})
    assert report.kept == kept(lambda: compiled(x, w)).nbytes
    assert report.kept <= report.baselines["inductor"]
    assert "torch.compile leaves a part to eager mode: 0.03 MiB" in str(report)


def test_a_recurrent_network_is_left_to_eager_mode():
    with pytest.raises(ValueError, match="leaves all that has a gradient to eager mode"):
        fxmem.explain(nn.LSTM(8, 8), torch.randn(4, 2, 8))


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


class Marking(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("ema", torch.zeros(8))
        self.register_buffer("seen", None)
        self.register_buffer("ones", torch.ones(1).expand(8))

    def forward(self, inputs, scale):
        inputs["x"].mul_(2)
        self.ema = 0.9 * self.ema + inputs["x"].detach().mean(0)
        self.seen = self.ema
        return (inputs["x"] * scale + self.ones).exp()


def test_explain_leaves_assigned_buffers_and_inputs_as_they_were():
    m, x, scale = Marking(), torch.ones(4, 8), torch.ones(8, requires_grad=True)
    ema, many = m.ema, torch.ones(1).expand(4)
    assert fxmem.explain(m, {"x": x}, scale=scale, policy={"rules": {"gated": True}}).plans
    assert m.ema is ema and m.seen is None
    assert torch.equal(ema, torch.zeros(8)) and torch.equal(x, torch.ones(4, 8))
    assert scale._version == 0  # what the model has left alone is not written
    assert fxmem.explain(lambda x, y: (x * y).exp(), scale[:4], many).plans


def test_explain_works_where_torch_compile_is_off(monkeypatch):
    wanted = fxmem.explain(model(), torch.randn(64, 64)).kept
    for off in (
        lambda: torch.compiler.set_stance("force_eager"),
        lambda: torch.compiler.set_stance("fail_on_recompile"),
        lambda: torch._dynamo.config.patch(disable=True),
    ):
        with off():
            assert fxmem.explain(model(), torch.randn(64, 64)).kept == wanted
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(ValueError, match="nothing is kept: TORCHDYNAMO_DISABLE=1 turns"):
        fxmem.explain(model(), torch.randn(64, 64))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_explain_where_gradients_are_off(off):
    with pytest.raises(ValueError) as error, off():
        fxmem.explain(model(), torch.randn(4, 64))
    assert str(error.value) == (
        "nothing is kept: gradients are off; call explain outside torch.no_grad() and "
        "torch.inference_mode()"
    )


def test_explain_where_nothing_is_kept():
    with pytest.raises(ValueError) as error:
        fxmem.explain(model().requires_grad_(False), torch.randn(4, 64))
    assert str(error.value) == (
        "nothing is kept: no output of the model depends on what requires a gradient"
    )


def test_explain_has_the_shapes_of_its_inputs_however_often_it_is_called():
    for batch in (512, 256, 128):
        (entry,) = fxmem.explain(model(), torch.randn(batch, 64)).entries
        assert entry.residual.shape[0] == batch


def test_a_report_does_not_call_integers_exact():
    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    report = fxmem.explain(layers, torch.randn(64, 64), policy={"rules": {"integer": "int8"}})
    assert report.guarantee == "bounded" and "fxmem (bounded)" in str(report)
    assert all(entry.guarantee == "exact" for entry in report.entries)  # none of them is encoded


def test_explain_refuses_an_impossible_policy():
    with pytest.raises(PolicyError, match="preset must be one of"):
        fxmem.explain(model(), torch.randn(4, 64), policy="tiny")


class Branching(nn.Module):
    """Its branches hold parameters, which control flow takes from its own compilation alone."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x):
        h = self.layer(x).sin()
        return torch.cond(h.sum() > 0, lambda h: self.layer(h).tanh(), self.layer, (h,)).sum()


def test_explain_of_control_flow():
    baselines = fxmem.explain(Branching(), torch.randn(64, 32)).baselines
    assert baselines["eager"] > 0
