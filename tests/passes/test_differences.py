"""Losses whose prediction is near its target: what their gradient is, a difference, is kept."""

import pytest
import torch
from torch.nn import functional as F

from .tools import TestBackend, gradients, leaf, partitioned, relative

COMPACT = {"preset": "compact", "min_bytes": 0}
WEIGHT = torch.linspace(1, 3, 64)


def mean_square(p, t):
    return F.mse_loss(p, t, reduction="sum")


# What the prediction is of h, and the loss of it and a target.
LOSSES = {
    "square": (torch.clone, mean_square),
    "huber": (torch.clone, F.huber_loss),
    "huber, weighted": (
        torch.clone,
        lambda p, t: (F.huber_loss(p, t, reduction="none") * WEIGHT).sum(),
    ),
    "square, weighted": (torch.clone, lambda p, t: ((p - t).square() * (1 + t * t)).sum()),
    "sigmoid": (torch.sigmoid, mean_square),
    "negated target": (torch.tanh, lambda p, t: (p + t.neg()).square().sum()),
    "gelu": (F.gelu, mean_square),
    "normalized": (lambda h: F.normalize(h, dim=-1), mean_square),
    "scaled afterwards": (torch.tanh, lambda p, t: mean_square(3 * p + 1, 3 * t + 1)),
    "probabilities": (torch.sigmoid, lambda p, t: F.binary_cross_entropy(p, t.clamp(0, 1))),
}


def near(predict, loss):
    """Return a function, its inputs, and a target that is off by a twentieth."""
    torch.manual_seed(0)
    x, w = leaf(128, 64), (torch.randn(64, 64) / 8).requires_grad_()
    prediction = predict(x @ w).detach()
    target = prediction + prediction.std() / 20 * torch.randn_like(prediction)
    return lambda x, w, t: loss(predict(x @ w), t), (x, w, target)


@pytest.mark.parametrize("case", LOSSES.values(), ids=LOSSES)
def test_error_is_that_of_the_difference(case):
    f, inputs = near(*case)
    found, exact = (gradients(f, *inputs, policy=p)[1:] for p in (COMPACT, "eager"))
    # 4 bits in groups of 64 are off by a tenth.
    assert all(relative(one, other) < 0.13 for one, other in zip(found, exact, strict=True))


# Targets that are numbers, as of adversarial losses; and the note of what is kept.
NUMBERS = {
    "square": (lambda h: (h - 1).square().sum(), "sub"),
    "reversed": (lambda h: (1 - h).pow(2).mean(), "sub"),
    "added": (lambda h: ((-3 * h + 3) * (-3 * h + 3)).mean(1).sum(), "add"),
    "weighted": (lambda h: (WEIGHT * (h - 1) ** 4).mean(), "sub"),
    "non-linear": (lambda h: (h.tanh() - 0.76159).square().mean(), "sub"),
    "of a few": (lambda h: (h[:, :1] - 1).square().sum() + 1e-3 * h.square().sum(), "sub"),
}


def beside_one():
    """Return x and w, of which the product is near 1."""
    torch.manual_seed(0)
    x, w = torch.randn(128, 64), torch.randn(64, 64) / 160
    return torch.cat([torch.ones(128, 1), x], 1), torch.cat([torch.ones(1, 64), w]).requires_grad_()


@pytest.mark.parametrize(("loss", "name"), NUMBERS.values(), ids=NUMBERS)
def test_difference_from_a_number(loss, name):
    def f(x, w):
        return loss(x @ w)

    found, exact = (gradients(f, *beside_one(), policy=p)[1] for p in (COMPACT, "eager"))
    assert relative(found, exact) < 0.13  # as above
    assert any(note.startswith(f"{name}: ") for note in kept(f, *beside_one())[1])


def kept(f, *inputs, **policy):
    """Return the operators of what is kept and the notes of the plan."""
    plan = partitioned(f, *inputs, policy={**COMPACT, **policy}).plan
    return {e.residual.op for e in plan.entries if e.nbytes}, plan.notes


NOTE = ("sub: evaluated in the forward and kept, not recomputed",)


def test_difference_is_kept_beside_the_prediction():
    f, inputs = near(torch.sigmoid, mean_square)
    assert kept(f, *inputs) == ({"aten.mm", "aten.sub"}, NOTE)


def test_teacher_of_the_same_graph():
    # It is read for the difference alone: that replaces it.
    def distilled(x, w, v):
        return mean_square((x @ w).tanh(), (x @ v).tanh().detach())

    assert kept(distilled, leaf(8, 64), leaf(64, 64), leaf(64, 64)) == (
        {"aten.mm", "aten.sub"},
        NOTE,
    )


def rotated(x, w, t):
    """Halves of one value, whose errors are in proportion to it."""
    a, b = (x @ w).tanh().chunk(2, 1)
    return ((a * 0.6 - b * 0.8).sigmoid() * (a * 0.8 + b * 0.6)).exp()


def recurrent(x, w, t):
    """A gate between two that are both trained: each is kept for its own sake."""
    h, n = (x @ w).tanh(), (x @ w.mT).tanh()
    return n + (h + n).sigmoid() * (h - n)


def centred(x, w, t):
    h = (x @ w).tanh()
    return ((h - h.mean(1, keepdim=True)) ** 3) / 7


def derivative(x, w, t):
    """That of tanh is 1 - y²."""
    return (x @ w).tanh().mean()


def function_of_a_difference(x, w, t):
    return ((x @ w).tanh() - 1).exp().mean()


def no_loss(x, w, t):
    return ((x @ w).tanh() - 1).square()


OTHERS = (rotated, recurrent, centred, derivative, function_of_a_difference, no_loss)


@pytest.mark.parametrize("f", OTHERS, ids=lambda f: f.__name__)
def test_other_differences_are_recomputed(f):
    found, notes = kept(f, leaf(8, 64), leaf(64, 64), torch.rand(8, 64))
    assert found and not notes


@pytest.mark.parametrize("policy", [{"preset": "exact"}, {"rules": {"encode": False}}])
def test_where_nothing_is_encoded(policy):
    f, inputs = near(torch.sigmoid, mean_square)
    assert kept(f, *inputs, **policy) == ({"aten.mm"}, ())


def test_a_number_taken_from_what_has_no_known_size():
    def loss(x, w):
        return (torch.sigmoid((x @ w)[x[:, 0] > 0].square()) - 1).square().mean()

    x, w = leaf(128, 64), leaf(64, 64)
    # Versions of torch keep the product, or what is taken of it; neither is to be encoded here.
    backend = TestBackend({**COMPACT, "rules": {"encode": False}})
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        loss_compiled = torch.compile(loss, backend=backend, fullgraph=True)
        (found,) = torch.autograd.grad(loss_compiled(x, w), w)
    (wanted,) = torch.autograd.grad(loss(x, w), w)
    torch.testing.assert_close(found, wanted)
