"""A layer's pointwise input is kept, not what it is made of: nothing is made again beside it."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .tools import gradients, leaf, partitioned

FUNCTIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "square": lambda h: h.relu().square(),
}


def layers(f):
    def net(x, *ws):
        for w in ws:
            x = f(x @ w)
        return x

    return net


def inputs():
    return leaf(4, 8, 16), *[leaf(16, 16) for _ in range(3)]


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_of_three_dimensions_too_a_result_is_kept_and_not_made_again(name):
    f = layers(FUNCTIONS[name])
    g = partitioned(f, *inputs())
    assert {e.residual.op for e in g.plan.entries} <= {f"aten.{name}", "aten.le"}
    assert not any(name in op for op in g.backward.ops)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradients(f):
    given = inputs()
    for a, b in zip(
        gradients(layers(f), *given, policy="exact"), gradients(layers(f), *given), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_what_the_backward_reads_otherwise_is_kept_itself():
    """GELU's derivative is of its input, which also gives its output again."""
    g = partitioned(layers(F.gelu), *inputs())
    assert {e.residual.op for e in g.plan.entries} == {"aten.mm"}


def test_what_a_checkpoint_is_to_make_again_is():
    def f(x, w, v):
        return checkpoint(lambda x: torch.relu(x @ w) @ v, x.sin(), use_reentrant=False)

    g = partitioned(f, *inputs()[:3])
    assert "aten.relu" in g.backward.ops and g.kept_set == ""


def test_codes_are_undone_where_they_are_read():
    """No peak is lower for it, and whose values are encoded shall not depend on it."""
    g = partitioned(layers(torch.tanh), *inputs(), policy={"preset": "balanced", "min_bytes": 0})
    assert "aten.tanh" in g.backward.ops
