"""Couplings as sums of stacks: torch.stack([a, f]).sum(0)."""

import pytest
import torch
from expecttest import TestCase

from fxmem.passes.joint.reversible.stacks import add_up

from .test_reversible import ASKED, assert_gradients_match, branch, inputs, links, weights
from .test_reversible_spellings import STATE, graph_of
from .tools import partitioned

# Each with how many states are kept beside the last two.
COUPLINGS = {
    "last": (lambda s, f: torch.stack([f, s], -1).sum(-1), 0),
    "mean": (lambda s, f: torch.stack([s, f], 1).mean(1), 1),
    "halves": (lambda s, f: torch.cat([s, f], -1).unflatten(-1, (2, 16)).sum(-2), 0),
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings(name):
    couple, kept = COUPLINGS[name]

    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, couple(a, branch(b, w))
        return a * b

    given = *inputs(8, 16), *weights(6)
    plan = partitioned(f, *given, policy=ASKED).plan
    assert links(plan) == [6]
    assert plan.after <= (2 + kept) * STATE
    assert_gradients_match(f, *given, policy=ASKED)


class TestGraph(TestCase):
    def test_stacks_and_sums(self):
        """Sums of more than one dimension, of rows within what was put together, or wider stay."""

        def f(a, b):
            whole = torch.stack([a, b])
            rows = torch.cat([a, b]).view(16, 2, 8)
            added = whole.mean(0), rows.sum(1), whole.sum((0, 1)), whole.sum(0, keepdim=True)
            return *added, whole.sum(0, dtype=torch.float64)

        graph = graph_of(f, *inputs(8, 16))
        add_up(graph)
        self.assertExpectedInline(
            "\n".join(str(node.target) for node in graph.nodes),
            """\
a_1
b_1
aten.cat.default
aten.view.default
aten.cat.default
aten.view.default
aten.add.Tensor
aten.div.Tensor
aten.sum.dim_IntList
aten.sum.dim_IntList
aten.sum.dim_IntList
aten.sum.dim_IntList
output""",
        )


TOTALS = {
    "1-norm": lambda h: h.norm(1),
    "sum, None": lambda h: h.sin().sum(dim=None, keepdim=True),
    "mean, None": lambda h: h.sin().mean(dim=None),
    "of a stack": lambda h: torch.stack([h, h.sin()]).sum(dim=None, keepdim=True),
    "of a scalar": lambda h: h.sin().sum().sum(dim=0).exp(),
    "mean of a scalar": lambda h: h.sin().mean().mean(dim=-1).exp(),
}


@pytest.mark.parametrize("name", TOTALS)
def test_sums_of_all_elements(name):
    def f(x, w):
        return TOTALS[name](x @ w)

    assert_gradients_match(f, *inputs(8, 8), policy="exact")
