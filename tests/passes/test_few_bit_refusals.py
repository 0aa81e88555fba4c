"""Which values are not kept as a few-bit code, each with its sentence."""

import pytest
import torch
from torch import library
from torch.nn import functional as F

from .test_few_bit import FROZEN, THREE, hidden
from .tools import leaf, partitioned

# Each breaks one precondition of `hidden(F.silu)` alone.


def sentences(f, *inputs, **policy):
    """Return what the plan says of this rule, and check that no graph has its operators."""
    g = partitioned(f, *inputs, policy={**THREE, **policy})
    assert (g.forward.ops["fxmem.classify"], g.backward.ops["fxmem.lookup"]) == (0, 0)
    said = [entry.action for entry in g.plan.entries]
    return [text.partition("few_bit: ")[2] for text in said if "few_bit: " in text]


def test_control_is_coded():
    g = partitioned(hidden(F.silu), leaf(8, 64), leaf(64, 64), policy=THREE)
    assert g.forward.ops["fxmem.classify"] == 1


def test_consumer_is_trained():
    # Its weight's gradient needs the output, which is recomputed from the same value.
    found = sentences(lambda x, w: F.silu(x @ w) @ w, leaf(8, 64), leaf(64, 64))
    assert found == ["the backward reads more of it than its derivative: a code serves one"]


def test_refusal_stands_beside_what_is_done_instead():
    g = partitioned(lambda x, w: F.silu(x @ w) @ w, leaf(8, 64), leaf(64, 64), policy=THREE)
    assert g.kept_set == (
        "aten.mm float32[8, 64] 2048 -> 352: 5 bits, groups of 64; few_bit: "
        "the backward reads more of it than its derivative: a code serves one"
    )


def test_gated_pair():
    # d(up) needs silu(gate), d(gate) needs its derivative; and up is needed as it is.
    def gated(x, w, v):
        return (F.silu(x @ w) * (x @ v)) @ FROZEN

    assert sentences(gated, leaf(8, 64), leaf(64, 64), leaf(64, 64)) == [
        "more than one function of it weighs gradients, as in a gated pair"
    ]


def test_two_activations():
    def two(x, w):
        h = x @ w
        return F.silu(h) @ FROZEN, F.gelu(h) @ FROZEN

    assert sentences(two, leaf(8, 64), leaf(64, 64)) == [
        "more than one function of it weighs gradients, as in a gated pair"
    ]


UNBOUNDED = {
    "squared relu": lambda h: F.relu(h) ** 2,
    "exp": torch.exp,
    "sin": torch.sin,  # between borders that are far apart it does anything
    "cubed": lambda h: h**3,
}


@pytest.mark.parametrize("act", UNBOUNDED.values(), ids=UNBOUNDED)
def test_derivative_does_not_level_off(act):
    assert sentences(hidden(act), leaf(8, 64), leaf(64, 64)) == [
        "its function does not level off, so nothing bounds a few-bit code's error"
    ]


LOSSES = {
    "huber": F.huber_loss,
    "rows": lambda h, t: F.huber_loss(h, t, reduction="none").mean(1),
    "weighted": lambda h, t: (F.smooth_l1_loss(h, t, reduction="none") * t).sum(),
    "log cosh": lambda h, t: (h - t).cosh().log().mean(),
    "of a constant": lambda h, t: F.softplus(-h).mean(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss(loss):
    found = sentences(lambda x, w, t: loss(x @ w, t), leaf(8, 64), leaf(64, 64), torch.rand(8, 64))
    why = "a loss is made of it: near the least of it nothing would be left of the gradient"
    assert set(found) == {why}


def test_constant_in_pieces():
    assert sentences(hidden(torch.abs), leaf(8, 64), leaf(64, 64)) == [
        "its function is constant in pieces: bits kept by comparisons are exact"
    ]


def test_value_of_its_own_at_zero():
    # Many an activation's input is 0, and the derivative of |h| is 0 there alone.
    # That |h| itself would do is no way out: fitted levels know nothing of where it lies.
    found = sentences(hidden(lambda h: torch.tanh(h.abs())), leaf(8, 64), leaf(64, 64))
    assert set(found) == {"its function has a value of its own at 0, which no step can have"}


def test_pole():
    inverse = hidden(lambda h: 1 / (1.0003 + h))
    found = sentences(inverse, leaf(8, 64), leaf(64, 64), rules={"few_bit": True})
    assert found == ["no 8 steps are near to its function"]


def test_gate():
    found = sentences(hidden(F.softplus), leaf(8, 64), leaf(64, 64))
    assert found == [
        "its function fades on a side, where a gate may be: nothing would be left of the gradient"
    ]


# Dynamo makes an instance of every autograd.Function that it traces.
instantiated = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


class Clipped(torch.autograd.Function):
    """A backward that is not linear in its gradient: what it adds does not vanish with it."""

    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return F.silu(h)

    @staticmethod
    def backward(ctx, grad):
        (h,) = ctx.saved_tensors
        return torch.where(h > 4, 1.0, grad * torch.sigmoid(h))


@instantiated
def test_not_linear_in_the_gradient():
    assert sentences(hidden(Clipped.apply), leaf(8, 64), leaf(64, 64)) == [
        "what it does to a gradient is no product with a finite number"
    ]


def test_not_finite():
    found = sentences(hidden(lambda h: h.sigmoid().log().asin()), leaf(8, 64), leaf(64, 64))
    assert found == ["what it does to a gradient is no product with a finite number"]


@library.custom_op("fxmem_test::bell", mutates_args=(), tags=(torch.Tag.pointwise,))
def bell(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("bell takes float32")
    return torch.exp(-x * x)


bell.register_fake(torch.empty_like)


class Bell(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return torch.special.erf(h)

    @staticmethod
    def backward(ctx, grad):
        return grad * bell(ctx.saved_tensors[0])


@instantiated
def test_operator_that_cannot_be_run():
    assert sentences(hidden(Bell.apply), leaf(8, 64), leaf(64, 64)) == [
        "its function cannot be run when compiling (bell takes float32)"
    ]


def test_not_fewer_bytes():
    # Encoded it is 5 bits and half a bit of scales; a code of 6 bits would be more.
    found = sentences(hidden(F.silu), leaf(8, 64), leaf(64, 64), rules={"few_bit": {"bits": 6}})
    assert found == ["a 6-bit code of a function of it would not be fewer bytes"]


def test_output_of_the_graph():
    def returned(x, w):
        h = x @ w
        return F.silu(h) @ FROZEN, h

    (entry,) = partitioned(returned, leaf(8, 64), leaf(64, 64), policy=THREE).plan.entries
    assert (entry.rule, entry.why) == (
        "encode",
        "the caller holds it too: it is an output of the graph",
    )


def test_small():
    g = partitioned(hidden(F.silu), leaf(8, 64), leaf(64, 64), policy={**THREE, "min_bytes": 2049})
    assert g.why == ["smaller than min_bytes=2049"]


SILENT = {
    "product": lambda h: (h * h.mean(1, keepdim=True)) @ FROZEN,
    "norm": lambda h: F.layer_norm(h, (64,)) @ FROZEN,
    "norm by its root": lambda h: F.rms_norm(h, (64,)) @ FROZEN,
    "softmax": lambda h: h.softmax(1) @ FROZEN,
    "loss": lambda h: F.mse_loss(h, torch.ones_like(h)),
}


@pytest.mark.parametrize("f", SILENT.values(), ids=SILENT)
def test_nothing_is_said_of_what_is_no_activation(f):
    assert sentences(lambda x, w: f(x @ w), leaf(8, 64), leaf(64, 64)) == []


def test_number_that_is_learned():
    def swish(x, w, beta):
        h = x @ w
        return (h * torch.sigmoid(beta * h)) @ FROZEN

    assert sentences(swish, leaf(8, 64), leaf(64, 64), leaf(1)) == []


@pytest.mark.parametrize("preset", ["exact", "balanced"])
def test_presets_that_promise_more_than_few_bits_give(preset):
    assert sentences(hidden(F.silu), leaf(8, 64), leaf(64, 64), preset=preset) == []


def test_rule_forbidden():
    found = sentences(hidden(F.silu), leaf(8, 64), leaf(64, 64), rules={"few_bit": False})
    assert found == []
