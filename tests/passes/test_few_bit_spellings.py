"""A derivative is found whatever the activation is, and however it is written."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .test_few_bit import ASKED, ONE, THREE, hidden
from .tools import gradients, leaf, partitioned, relative


def mixed_precision(act):
    return lambda h: act(h.to(torch.bfloat16).float()).to(torch.bfloat16).float()


SPELLINGS = {
    "gelu": (F.gelu, "gelu"),
    "gelu by erf": (lambda h: h * 0.5 * (1 + torch.erf(h / math.sqrt(2))), "gelu"),
    "gelu, commuted": (lambda h: (torch.erf(h / math.sqrt(2)) + 1) * h / 2, "gelu"),
    "gelu, scaled afterwards": (lambda h: 3 * F.gelu(h), "gelu"),
    "gelu of a stream": (lambda h: h + F.gelu(h), "gelu"),
    "gelu between casts": (mixed_precision(F.gelu), "gelu"),
    "gelu_tanh": (lambda h: F.gelu(h, approximate="tanh"), "gelu_tanh"),
    "gelu_new": (
        lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
        "gelu_tanh",
    ),
    "quick_gelu": (lambda h: h * torch.sigmoid(1.702 * h), "quick_gelu"),
    "quick_gelu, number in a tensor": (
        lambda h: h * torch.sigmoid(h * torch.tensor(1.702, dtype=torch.float64)),
        "quick_gelu",
    ),
    "silu": (F.silu, "silu"),
    "silu by sigmoid": (lambda h: h * torch.sigmoid(h), "silu"),
    "silu, commuted": (lambda h: torch.sigmoid(h) * h, "silu"),
    "silu by exp": (lambda h: h / (1 + torch.exp(-h)), "silu"),
    "silu between casts": (mixed_precision(lambda h: h * torch.sigmoid(h)), "silu"),
    "silu, dropped out": (lambda h: F.dropout(F.silu(h), 0.25), "silu"),
    "mish": (F.mish, "mish"),
    "mish by softplus": (lambda h: h * torch.tanh(F.softplus(h)), "mish"),
    "hardswish": (F.hardswish, "hardswish"),
    "hardswish by relu6": (lambda h: h * F.relu6(h + 3) / 6, "hardswish"),
    "elu": (F.elu, "celu"),  # which has ELU's derivative
    "selu": (F.selu, "selu"),
    "softplus": (F.softplus, "softplus"),
    "softsign": (F.softsign, "softsign"),
    "logsigmoid": (F.logsigmoid, "logsigmoid"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "tanh": (torch.tanh, "tanh"),
}

# Whose derivative goes to 0 on a side without changing its sign have one where it is asked for.
FADING = ("celu", "selu", "softplus", "softsign", "logsigmoid", "sigmoid", "tanh")


@pytest.mark.parametrize(("act", "name"), SPELLINGS.values(), ids=SPELLINGS)
def test_one_code_whatever_the_spelling(act, name):
    policy = ASKED if name in FADING else THREE
    g = partitioned(hidden(act), leaf(8, 64), leaf(64, 64), policy=policy)
    assert (g.forward.ops["fxmem.classify"], g.backward.ops["fxmem.lookup"]) == (1, 1)
    (site,) = (site for site in g.plan.sites if site.nbytes)
    assert (site.nbytes, site.action.split(",")[0]) == (192, f"3-bit code of {name}'s derivative")
    assert site.guarantee == "bounded"


CUSTOM = {
    "lisht": lambda h: h * torch.tanh(h),
    "serf": lambda h: h * torch.erf(F.softplus(h)),
    "arctan unit": lambda h: h * torch.atan(torch.exp(h)),
    "self-gated twice": lambda h: h * torch.sigmoid(h) * torch.sigmoid(2 * h),
    "elu with its own alpha": lambda h: F.elu(h, alpha=0.3),
    "chained": lambda h: F.silu(F.gelu(h)),
    "root": lambda h: torch.sqrt(1 + h * h),
    "bounded": lambda h: F.gelu(h).clamp(-0.1, 1),
    "rectified": lambda h: F.silu(F.relu(h)),
}
# Whose derivative goes to 0 with their input have one where it is asked for.
VANISHING = {
    **{name: CUSTOM[name] for name in ("lisht", "root")},
    "log cosh": lambda h: h.cosh().log(),
    "log cosh by softplus": lambda h: h + F.softplus(-2 * h),
    "less its arctangent": lambda h: h - torch.atan(h),
}
SMALL = [*VANISHING.values(), CUSTOM["elu with its own alpha"]]


@pytest.mark.parametrize("act", CUSTOM.values(), ids=CUSTOM)
def test_levels_are_fitted_to_what_has_no_name(act):
    policy = ASKED if act in SMALL else THREE
    g = partitioned(hidden(act), leaf(8, 64), leaf(64, 64), policy=policy)
    (site,) = (site for site in g.plan.sites if site.nbytes)
    assert site.action.startswith("3-bit code of a function of it, off by at most ")
    assert (g.forward.ops["fxmem.classify"], g.backward.ops["fxmem.lookup"]) == (1, 1)


@pytest.mark.parametrize("act", VANISHING.values(), ids=VANISHING)
def test_small_values_keep_their_gradient_where_a_derivative_vanishes(act):
    given = leaf(64, 64), (torch.randn(64, 64) / 100).requires_grad_()
    exact, found = (gradients(hidden(act), *given, policy=p)[1:] for p in ("eager", THREE))
    assert max(map(relative, found, exact)) < 0.2


@pytest.mark.parametrize(
    ("gate", "bias"),
    [(F.softplus, -5), (F.logsigmoid, 5), (torch.sigmoid, 5), (torch.tanh, 3), (F.elu, -4)],
)
@pytest.mark.parametrize(("preset", "most"), [("balanced", 0.02), ("compact", 0.1)])
def test_gates_that_are_nearly_shut_keep_their_gradient(gate, bias, preset, most):
    policy, given = {**THREE, "preset": preset}, (leaf(64, 64), leaf(64, 64))
    f = hidden(lambda h: gate(h / 8 + bias))
    exact, found = (gradients(f, *given, policy=p)[1:] for p in ("eager", policy))
    assert max(map(relative, found, exact)) < most


def test_weight_of_a_frozen_pair_whose_other_half_is_not_trained():
    # The gradient arrives as g * up; the derivative of SiLU weighs that product.
    up = torch.randn(8, 64)
    g = partitioned(hidden(lambda h: F.silu(h) * up), leaf(8, 64), leaf(64, 64), policy=THREE)
    assert [site.nbytes for site in g.plan.sites] == [192]

    # Written so that sigmoid weighs (h * up), the factors are g and up, in two terms.
    g = partitioned(
        hidden(lambda h: (h * up) * torch.sigmoid(h)), leaf(8, 64), leaf(64, 64), policy=THREE
    )
    assert [site.nbytes for site in g.plan.sites] == [192]


class Normed(nn.Module):
    """A frozen norm, applied by its statistics, stands between the product and the activation."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64).requires_grad_(False).eval()
        self.outer = nn.Linear(64, 64).requires_grad_(False)

    def forward(self, x):
        return self.outer(F.silu(self.norm(self.inner(x))))


def test_frozen_norm_in_between():
    """The code is of what the norm makes, whose channels share groups; its factor is not kept."""
    g = partitioned(Normed(), leaf(8, 64), policy=THREE)
    sites = [(site.nbytes, site.residual.op, site.rule) for site in g.plan.sites]
    assert [site for site in sites if site[0]] == [(192, "aten.mul", "few_bit")]


def test_sizes_not_known():
    inputs = leaf(8, 64), leaf(64, 64)
    g = partitioned(hidden(F.gelu), *inputs, policy=ONE, dynamic=True)
    assert (g.forward.ops["fxmem.classify"], g.backward.ops["fxmem.lookup"]) == (1, 1)
    assert g.backward.ops["aten.erf"] == 0


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(bits):
    policy = {"min_bytes": 0, "rules": {"few_bit": {"bits": bits}}}
    g = partitioned(hidden(F.gelu), leaf(3, 64), leaf(64, 64), policy=policy)
    assert [site.nbytes for site in g.plan.sites] == [24 * bits]


@pytest.mark.parametrize(
    "own, action",
    [
        ({}, "3-bit code of gelu's derivative"),
        ({"bits": 2}, "2-bit code of gelu's derivative"),
        ({"bits": 4}, "4-bit code of gelu's derivative"),
        ({"bits": 8}, "8 bits, groups of 64"),
        ({"bits": 8, "rules": {"few_bit": True}}, "8-bit code of gelu's derivative"),
        ({"bits": 8, "rules": {"few_bit": {"bits": 3}}}, "3-bit code of gelu's derivative"),
    ],
)
def test_bits_of_every_residual_are_those_of_a_code(own, action):
    g = partitioned(hidden(F.gelu), leaf(8, 64), leaf(64, 64), policy={**THREE, **own})
    assert [site.action.split(", off")[0] for site in g.plan.sites] == [action]
