"""The loss in chunks under torch.compile(backend="fxmem"): on by itself, where it pays."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxmem
from fxmem.backend import fxmem as backend
from fxmem.measure import kept, peak_bytes

from .tools import relative

ROWS, CLASSES, WIDTH = 2048, 512, 16
NOTE = "1 x cross_entropy: chunked_loss, the logits computed in chunks, with the gradients"


class Model(nn.Module):
    """A layer and a head, and the loss of the next token."""

    def __init__(self, classes=CLASSES, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x, labels):
        logits = self.head(self.layer(x).tanh())[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def sample(batch=8, tokens=ROWS // 8 + 1):
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (batch, tokens), generator=draw)
    labels[0, :9] = -100
    return torch.randn(batch, tokens, WIDTH, generator=draw), labels


def compiled(model, inner="aot_eager", **options):
    torch._dynamo.reset()
    dynamic = options.pop("dynamic", None)
    options = {"inner": inner, **options}
    return torch.compile(model, backend=backend, options=options, dynamic=dynamic)


def gradients(call, model, *inputs):
    leaves = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(call(*inputs), leaves)


def error(found, wanted):
    return max(relative(a.double(), b.double()) for a, b in zip(found, wanted, strict=True))


def notes():
    return fxmem.last_report().plans[0].notes


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@torch._functorch.config.patch(enable_autograd_cache=False)  # a graph from it has no report
def test_on_by_itself_and_exact(inner):
    model, inputs = Model(), sample()
    found = gradients(compiled(model, inner), model, *inputs)
    assert error(found, gradients(model, model, *inputs)) < 1e-6
    assert notes() == (NOTE,)


def test_its_gradients_are_what_is_kept():
    model, inputs = Model(), sample()
    report = fxmem.explain(model, *inputs)
    kept = {(r.op, *r.shape) for plan in report.plans for e in plan.entries for r in [e.residual]}
    assert kept == {
        ("aten.addmm", ROWS + 8, WIDTH),
        ("fxmem.linear_cross_entropy_sum[1]", ROWS, WIDTH),
        ("fxmem.linear_cross_entropy_sum[2]", CLASSES, WIDTH),
        ("fxmem.linear_cross_entropy_sum[3]", CLASSES),
    }


@pytest.mark.parametrize("preset", ["balanced", "compact"])
def test_lossy_presets_leave_its_gradients_alone(preset):
    report = fxmem.explain(Model(), *sample(), policy={"preset": preset, "min_bytes": 0})
    why = "what an operator returns beside its main output (log-sum-exp, state) stays exact"
    ours = [e for p in report.plans for e in p.entries if "linear_cross" in e.residual.op]
    assert [e.why for e in ours] == [why] * 3


def test_half_precision():
    model, (x, labels) = Model(), sample(tokens=2 * ROWS // 8 + 1)
    model, x = model.bfloat16(), x.bfloat16()
    plain = gradients(model, model, x, labels)
    found = gradients(compiled(model), model, x, labels)
    exact = model.double()
    true = gradients(exact, exact, x.double(), labels)
    pairs = zip(found, plain, true, strict=True)
    assert all(relative(a, c) <= 2 * relative(b, c) for a, b, c in pairs)
    assert notes() == (NOTE,)


def test_autocast_outside():
    model, inputs = Model(), sample(tokens=2 * ROWS // 8 + 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradients(model, model, *inputs)
        found = gradients(compiled(model), model, *inputs)
    assert error(found, plain) < 2 * torch.finfo(torch.bfloat16).eps
    assert notes() == (NOTE,)


def test_dynamic_shapes():
    model = Model()
    call = compiled(model, dynamic=True)
    for tokens in (ROWS // 8 + 1, 300, 277):
        inputs = sample(tokens=tokens)
        found = gradients(call, model, *inputs)
        assert error(found, gradients(model, model, *inputs)) < 1e-6
    assert notes() == (NOTE,)


def test_inference_is_left_alone():
    seen = []

    def inner(gm, inputs):
        seen.append(gm.code)
        return gm.forward

    with torch.no_grad():
        compiled(Model(), inner)(*sample())
    assert seen and not any("linear_cross" in code for code in seen)


def test_forbidden_or_too_small():
    small = sample(tokens=20)
    for options in ({"rules": {"chunked_loss": False}}, {}):
        model = Model()
        gradients(compiled(model, **options), model, *small)
        assert "linear_cross" not in str(fxmem.last_report())


def test_two_backward_passes():
    model, inputs = Model(), sample()
    loss = compiled(model)(*inputs)
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(3 * loss, list(model.parameters()))
    assert error([3 * g for g in first], again) < 1e-6


def test_kept_and_peak_are_an_eighth_of_inductors():
    model = Model(classes=4096)
    inputs = sample()
    logits = ROWS * 4096 * 4
    gradient = 4096 * WIDTH * 4
    calls = {
        "inductor": torch.compile(lambda *given: model(*given)),
        "fxmem": compiled(model, "inductor"),
    }

    def step(call):
        return lambda: gradients(call, model, *inputs)

    torch._dynamo.reset()
    found = {
        name: (kept(lambda call=call: call(*inputs)).nbytes, peak_bytes(step(call)))
        for name, call in calls.items()
    }
    assert min(found["inductor"]) > logits
    assert found["fxmem"][0] < logits / 8
    assert found["fxmem"][1] - gradient < found["inductor"][1] / 8 + gradient
