"""Rules on activations: what is taken, and the sentence where nothing is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from fxmem.transform import report, transform

from .blocks import MLP, Gated, quantized
from .dialects import aten, dynamo, symbolic

FROM_OUTPUT = {"rules": {"from_output": True, "gated": False}}


def entry(gm, policy=None):
    """Return the one entry of a transformed graph's plan."""
    entries = report(transform(gm, policy)).entries
    (found,) = (entry for entry in entries if entry.rule != "norm_from_output")
    return found


class KeptElsewhere(MLP):
    def forward(self, x):
        h = self.up(x)
        return self.down(self.act(h)), F.layer_norm(h, (16,))


class Overwritten(MLP):
    def forward(self, x):
        y = self.act(self.up(x))
        y.add_(1)
        return self.down(y)


def frozen(module):
    return module.requires_grad_(False)


def in_no_use(x):
    return F.gelu(x.detach()) @ x


# Each breaks one precondition of the rule, and no other.
REFUSED = {
    "hit": (MLP(nn.GELU()), None),
    "hit through a view": (MLP(lambda h: F.gelu(h).view(2, 2, 16).flatten(0, 1)), None),
    "hit through a dropout of nothing": (MLP(nn.Sequential(nn.GELU(), nn.Dropout(0.0))), None),
    "slope not determined": (
        MLP(nn.LeakyReLU(-0.5)),
        "the output of leaky_relu does not determine its slope",
    ),
    "slope lost at a step": (
        MLP(nn.Softplus(1, 2)),
        "the output of softplus does not determine its slope",
    ),
    "no consumer": (MLP(nn.GELU(), nn.Identity()), "nothing else keeps its output"),
    "consumer of a copy": (
        MLP(lambda h: F.gelu(h).view(2, 2, 16).transpose(0, 1).contiguous()),
        "nothing else keeps its output",
    ),
    "consumer without a product": (
        MLP(nn.GELU(), nn.AvgPool1d(2)),
        "nothing else keeps its output",
    ),
    "frozen consumer": (MLP(nn.GELU(), frozen(nn.Linear(16, 8))), "nothing else keeps its output"),
    "product with a number": (MLP(lambda h: F.gelu(h) * 2), "nothing else keeps its output"),
    "consumer of a masked copy": (
        MLP(nn.Sequential(nn.GELU(), nn.Dropout(0.1))),
        "nothing else keeps its output",
    ),
    "eager keeps the output": (
        MLP(nn.Sigmoid()),
        "eager keeps 0 bits an element for it alone",
    ),
    "source kept elsewhere": (
        KeptElsewhere(nn.GELU()),
        "eager keeps 0 bits an element for it alone",
    ),
    "output overwritten": (
        Overwritten(nn.GELU()),
        "something is overwritten before down reads its output",
    ),
    "no gradient": (in_no_use, "nothing that it reads wants a gradient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_from_output_refuses(case):
    function, why = REFUSED[case]
    found = entry(symbolic(function), FROM_OUTPUT)
    assert getattr(found, "why", None) == why
    assert found.rule == ("" if case == "no gradient" else "from_output")


def gated(x, w, u):
    return F.silu(x @ w) * u


WEIGHT = torch.randn(8, 8, requires_grad=True)
UNLIKE = {
    "hit": (WEIGHT, None),
    "broadcast": (torch.randn(8, requires_grad=True), "u"),
    "of another dtype": (torch.randn(8, 8, dtype=torch.float64, requires_grad=True), "u"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_gated_refuses_unlike_factors(case):
    up, why = UNLIKE[case]
    gm = dynamo(gated, torch.randn(8, 8), WEIGHT, up)
    found = entry(gm, {"rules": {"from_output": False}})
    assert (why is None) == (not hasattr(found, "why"))
    if why:
        assert found.why == "l_u_ is not known to have the shape and dtype of matmul"


def test_gated_refuses_factors_of_unknown_shapes():
    found = entry(symbolic(gated), {"rules": {"from_output": False}})
    assert found.why == "u is not known to have the shape and dtype of matmul"


def test_gated_takes_shapes_from_shape_propagation():
    gm = symbolic(gated)
    ShapeProp(gm).propagate(torch.randn(8, 8), WEIGHT, WEIGHT)
    assert entry(gm).rule == "gated"


def test_gated_refuses_overwriting_in_between():
    def f(x, w, u):
        gate = x @ w
        act = F.silu(gate)
        gate.add_(1)
        return act * u

    gm = symbolic(f)
    ShapeProp(gm).propagate(torch.randn(8, 8), WEIGHT, WEIGHT * 1)
    found = entry(gm, {"rules": {"from_output": False}})
    assert found.why == "something is overwritten before mul reads it"


def test_gated_leaves_a_factor_without_gradient_to_the_next_rule():
    gm = dynamo(gated, torch.randn(8, 8), WEIGHT, torch.randn(8, 8))
    assert entry(gm).why == "nothing else keeps its output"


def test_gated_takes_any_activation_that_it_helps():
    def f(act):
        gm = symbolic(lambda x, w, u: act(x @ w) * u)
        ShapeProp(gm).propagate(torch.randn(8, 8), WEIGHT, WEIGHT)
        return entry(gm, {"rules": {"from_output": False}})

    assert f(lambda g: F.gelu(g, approximate="tanh")).action.endswith("64 -> 32 bits an element")
    assert f(torch.sigmoid).why == "eager keeps 32 bits an element for it alone"


def chained(x):
    return F.gelu(torch.tanh(x)), F.silu(x) * F.gelu(x + 1)


@pytest.mark.parametrize("policy", [None, quantized(bits=8)], ids=["exact", "8 bits"])
def test_activations_of_activations(policy):
    x = torch.linspace(-3, 3, 64, requires_grad=True)
    gm = symbolic(chained)
    ShapeProp(gm).propagate(x)
    new = transform(gm, policy)
    assert len(list(report(new).entries)) == 4
    (exact,) = torch.autograd.grad(sum(y.sum() for y in chained(x)), x)
    (found,) = torch.autograd.grad(sum(y.sum() for y in new(x)), x)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_rules_may_be_forbidden():
    both = {"rules": {"gated": False, "from_output": False}}
    assert entry(symbolic(Gated()), both).why == "no rule is on"
    assert entry(symbolic(Gated()), {"rules": {"gated": False}}).rule == "from_output"


def test_quantized_gradient_takes_what_others_refuse():
    gm = symbolic(MLP(nn.GELU(), nn.Identity()))
    found = entry(gm, {"rules": {"quantized_gradient": {"bits": 3}}})
    assert found.action == (
        "3-bit codes of its slope, rms error 4.4e-02 for normal inputs: 32 -> 3 bits an element"
    )
    assert found.guarantee == "bounded"


@pytest.mark.parametrize(
    "module, dtype, guarantee, action",
    [
        (nn.ELU(), torch.float32, "exact", "kept as its output: 32 -> 0"),
        (nn.ELU(), torch.bfloat16, "exact", "kept as its output: 16 -> 0"),
        (nn.GELU(), torch.float32, "bounded", "and a branch bit, slope within 1.4e-04: 32 -> 1"),
        # 3.5e-2 is what a few roundings in bfloat16 make.
        (nn.GELU(), torch.bfloat16, "exact", "kept as its output and a branch bit: 16 -> 1"),
    ],
)
def test_guarantees_from_output(module, dtype, guarantee, action):
    found = entry(aten(MLP(module).to(dtype), torch.randn(4, 8, dtype=dtype)))
    assert found.guarantee == guarantee and f"{action} bits an element" in found.action


@pytest.mark.parametrize(
    "module, options, guarantee",
    [
        (nn.ReLU6(), {"bits": 3}, "exact"),
        (nn.GELU(), {"bits": 3}, "bounded"),
        (nn.GELU(), {"bits": 3, "unbiased": True}, "unbiased"),
    ],
)
def test_guarantees(module, options, guarantee):
    assert entry(symbolic(MLP(module)), quantized(**options)).guarantee == guarantee


def test_bytes():
    gm = aten(MLP(nn.GELU()), torch.randn(4, 8))
    found = entry(gm)
    assert (found.residual.nbytes, found.nbytes) == (4 * 16 * 4, 4 * 16 // 8)
    assert report(transform(gm)).plans[0].notes == ()
    unsized = report(transform(symbolic(MLP(nn.GELU()))))
    assert unsized.plans[0].notes == (
        "no tracer has noted shapes, so only bits an element are known, not bytes",
    )
