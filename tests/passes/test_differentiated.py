"""Graphs that differentiate by themselves what a rule would rewrite: it is left, and that is said."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxmem
from fxmem.backend import fxmem as backend
from fxmem.passes.forward.differentiated import AGAIN, TRANSFORMED

from .tools import relative

ROWS, CLASSES, WIDTH = 2048, 128, 8
EVERY = {"from_output": True, "gated": True, "exact_codes": True}
QUANTIZED = {"quantized_gradient": {"bits": 8}}
INTEGER = {"integer": {"method": "int8", "first_and_last": True}}


class Head(nn.Module):
    """A loss that is rewritten by itself."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("labels", torch.arange(ROWS) % CLASSES)

    def forward(self, x):
        return F.cross_entropy(self.head(x), self.labels[: len(x)])


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x)).square().mean()


def gelu():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1), nn.Flatten(0))


MODELS = {
    "loss": (Head, {}),
    "gated": (Gate, EVERY),
    "from_output": (gelu, EVERY),
    "quantized_gradient": (gelu, QUANTIZED),
    "integer": (gelu, INTEGER),
}


def penalty(model, x):
    """A loss with the norm of its own gradient."""
    loss = model(x).mean()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + grad.square().sum()


WAYS = {
    "grad": (lambda m, x: torch.func.grad(lambda x: m(x).mean())(x).square().sum(), TRANSFORMED),
    "jvp": (lambda m, x: torch.func.jvp(m, (x,), (x.cos(),))[1].sum(), TRANSFORMED),
    "penalty": (penalty, AGAIN),
}


def gradients(call, model, x):
    model.zero_grad()
    call(model, x).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def compiled(function, rules):
    torch._dynamo.reset()
    options = {"inner": "aot_eager", "rules": rules, "min_bytes": 0}
    return torch.compile(function, backend=backend, options=options, fullgraph=True)


def check(function, model, x, rules):
    """Compare gradients with eager's; return what the report says."""
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = gradients(compiled(function, rules), model, x)
    wanted = gradients(function, model, x)
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if b.norm() > 1e-6]
    assert pairs and max(relative(a, b) for a, b in pairs) < 1e-5
    return fxmem.last_report().plans[0].notes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_left_as_it_is(name, way):
    (make, rules), (function, why) = MODELS[name], WAYS[way]
    torch.manual_seed(0)
    model, x = make(), torch.randn(ROWS if name == "loss" else 16, WIDTH, requires_grad=True)
    assert any(why in note for note in check(function, model, x, rules))


def test_what_the_gradient_does_not_lead_through_is_rewritten():
    """The linear layer behind a gated pair is differentiated twice, and the pair once."""

    def last(model, x):
        loss = model(x)
        (grad,) = torch.autograd.grad(loss, model.down.weight, create_graph=True)
        return loss + grad.square().sum()

    torch.manual_seed(0)
    notes = check(last, Gate(), torch.randn(16, WIDTH), EVERY)
    why = "and their product, for the gradient of linear_2 is differentiated again"
    assert any(f"gated, kept as gate and factor, {why}" in note for note in notes), notes


def test_batches_are_rewritten():
    def batched(model, x):
        return torch.func.vmap(model)(x.unflatten(0, (2, 8))).sum()

    torch.manual_seed(0)
    notes = check(batched, gelu(), torch.randn(16, WIDTH), {"from_output": True})
    assert any("from_output, kept as its output" in note for note in notes)
