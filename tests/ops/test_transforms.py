"""Operators under torch.func and in forward mode: a sentence in place of a tangent that is lost."""

import pytest
import torch
from passes.dialects import symbolic
from torch import nn
from torch.autograd import forward_ad

import fxmem
from fxmem import ops

WIDTH = 6
ALONE = "fxmem::{} is differentiated by backward.* alone, neither in forward mode nor by torch.func"


def layers(*between):
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *between, nn.Linear(WIDTH, WIDTH))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


CASES = {
    "from_output": (layers(nn.GELU()), {}),
    "few_bit": (layers(nn.GELU()), {"quantized_gradient": {"bits": 3}, "from_output": False}),
    "gated_linear": (Gate(), {}),
    "integer_linear": (layers(nn.Linear(WIDTH, WIDTH)), {"integer": "int8"}),
}


def tangent(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x))).tangent


WAYS = {
    "forward mode": tangent,
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "jvp of vmap": lambda f, x: torch.func.jvp(torch.func.vmap(f), (x,), (x,)),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(x),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operator", CASES)
@pytest.mark.parametrize("trained", [True, False])
def test_what_was_transformed_says_so(operator, way, trained):
    model, rules = CASES[operator]
    gm = fxmem.transform(symbolic(model.requires_grad_()), {"rules": rules})
    gm.requires_grad_(trained)
    with pytest.raises(RuntimeError, match=ALONE.format(operator)):
        WAYS[way](gm, torch.randn(4, WIDTH))


def test_what_has_no_derivative_says_that():
    with pytest.raises(RuntimeError, match="fxmem::encode has no derivative: it stores a tensor"):
        WAYS["jvp"](lambda x: ops.encode(x, 8, 32)[1], torch.randn(4, WIDTH))


def test_what_is_not_differentiated_is_transformed():
    x = torch.randn(4, WIDTH)
    y = ops.from_output(x, "gelu")[0]
    assert torch.equal(torch.func.vmap(lambda x: ops.from_output(x, "gelu")[0])(x), y)
    for way in ("forward mode", "jvp", "grad"):
        found = WAYS[way](lambda x: x * ops.from_output(x.detach(), "gelu")[0], x)
        torch.testing.assert_close(found, WAYS[way](lambda x: x * y, x))
