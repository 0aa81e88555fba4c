"""Integer states: what comes back is what was there, bit for bit, at every depth."""

import pytest
import torch

from fxmem.nn.reversible import MomentumNet

from .test_reversible import OFF, branch, chain, inputs, links, run, weights
from .tools import gradients, leaf, partitioned, relative

STATE = 8 * 16 * 4


def exact(**options):
    return {"rules": {"reversible": {"force": True, "exact": True, "float64": False, **options}}}


def as_dtype(given, dtype):
    return [t.detach().to(dtype).requires_grad_() for t in given]


def subtracted(a, b, *ws):
    a, b = chain(a.sin(), b.cos(), ws, couple=lambda s, f: f - s)
    return a * b


@pytest.mark.parametrize(
    "f, dtype, depth",
    [
        (run, torch.float32, 6),
        (run, torch.bfloat16, 64),
        (subtracted, torch.float16, 6),
        (subtracted, torch.float32, 48),
        (run, torch.float64, 6),
    ],
)
def test_bit_identical_to_the_same_network_with_every_state_kept(f, dtype, depth):
    given = as_dtype((*inputs(8, 16), *weights(depth)), dtype)
    found, kept = (gradients(f, *given, policy=exact(anchor=n)) for n in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


def test_every_state_kept_is_what_it_says():
    given = *inputs(8, 16), *weights(6)
    note, _ = partitioned(run, *given, policy=exact(anchor=1)).plan.notes
    assert "6 links are recomputed from their last two states, int32; 5 states are kept" in note


def test_no_anchors():
    given = as_dtype((*inputs(8, 16), *weights(64)), torch.bfloat16)
    note, limit = partitioned(run, *given, policy=exact()).plan.notes
    assert note == "reversible: 64 links are recomputed from their last two states, int32"
    assert limit == (
        "reversible, exact: states are integers; one beyond about a thousand times the largest "
        "element of the first two makes the last states and all gradients NaN"
    )


def test_the_forward_is_off_by_the_grid_alone():
    given = *inputs(8, 16), *weights(8)
    found, plain = (gradients(run, *given, policy=p) for p in (exact(), OFF))
    assert 0 < relative(found[0], plain[0]) < 2**-16
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, plain, strict=True))


def test_overflow_is_no_number():
    def f(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws, f=lambda x, w: 300.0 * branch(x, w))
        return a.sum() + b.sum()

    given = *inputs(8, 16), *weights(6)
    assert all(t.isfinite().all() for t in gradients(f, *given, policy=exact()))

    def over(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws, f=lambda x, w: 3e3 * branch(x, w))
        return a.sum() + b.sum()

    value, *slopes = gradients(over, *given, policy=exact())
    assert value.isnan()
    assert all(g.isnan().any() for g in slopes[2:-1])


def test_what_is_no_number_is_not_hidden():
    given = *inputs(8, 16), *weights(6)
    with torch.no_grad():
        given[-2][0, 0] = float("nan")
    assert gradients(run, *given, policy=exact())[0].isnan().all()


def test_states_that_are_zero():
    nothing = *inputs(0, 16), *weights(4)
    assert not any(t.any() for t in gradients(run, *nothing, policy=exact()))

    def f(x, *ws):
        a, b = chain(torch.zeros_like(x), x * 0.0, ws, f=lambda x, w: branch(x + 1, w) * 1e-12)
        return (a + b).sum()

    given = leaf(8, 16), *weights(4)
    assert all(t.isfinite().all() for t in gradients(f, *given, policy=exact()))


@pytest.mark.parametrize(
    "couple",
    [
        lambda s, f: torch.sigmoid(f) * s + f,
        lambda s, f: 1.1 * s + f,  # grows
        lambda s, f: 0.9999 * s + f,  # 9999 / 10000
        lambda s, f: 1e-5 * s + f,
        lambda s, f: 0.9 * (0.9 * s) + f,
        lambda s, f: torch.add(f, s, alpha=0.9),
    ],
)
def test_affine_couplings_keep_their_floats(couple):
    def f(a, b, *ws):
        return run(a, b, *ws, couple=couple)

    refused, note = partitioned(f, *inputs(8, 16), *weights(4), policy=exact(anchor=0)).plan.notes
    assert refused == (
        "reversible, exact: a chain keeps its floating-point states, for it does more than add to "
        "them, or multiply them by one number near a fraction up to 1 with a denominator up to 1024"
    )
    assert note == "reversible: 4 links are recomputed from their last two states, float32"


def test_affine_couplings_in_half_precision_beside_sums():
    def f(a, b, c, d, *ws):
        a, b = chain(a.sin(), b.cos(), ws)
        c, d = c.sin(), d.cos()
        for w in ws:
            c, d = d, c * (0.1 * branch(d, w)).exp() + branch(d, w)
        return a * b, c * d

    given = as_dtype((*inputs(8, 16), *inputs(8, 16), *weights(5)), torch.bfloat16)
    notes = partitioned(f, *given, policy=exact()).plan.notes
    kinds = [note.partition("two states, ")[2] for note in notes[1:]]
    assert kinds == ["int32", "float32 for bfloat16", ""]


class Value(torch.autograd.Function):
    """What an integer stands for, differentiated as the float stream that carries its gradient."""

    @staticmethod
    def forward(ctx, carrier, n):
        return n.to(torch.float32) * 2**-16

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def written_out(a, b, *ws, couple=torch.add):
    """A module's own integer streams, which float ones carry the gradient of."""
    a, b = a.sin(), b.cos()
    m, n = ((s.detach() * 2**16).round().to(torch.int32) for s in (a, b))
    a, b = Value.apply(a, m), Value.apply(b, n)
    for w in ws:
        f = branch(b, w)
        m, n = n, couple(m, (f.detach() * 2**16).round().to(torch.int32))
        a, b = b, Value.apply(couple(a, f), n)
    return a * b


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("depth", [6, 20])
@pytest.mark.parametrize(
    "couple",
    [torch.add, lambda s, f: torch.sub(f, s), lambda s, f: torch.add(f, s, alpha=-1)],
    ids=["sum", "difference", "sum with the negative"],
)
def test_integer_streams_of_a_module(couple, depth):
    def f(*given):
        return written_out(*given, couple=couple)

    given = *inputs(8, 16), *weights(depth)
    asked = {"rules": {"reversible": {"force": True}}}
    g = partitioned(f, *given, policy=asked)
    assert links(g.plan) == [depth]
    assert "int32" in g.plan.notes[0] and "kept" not in g.plan.notes[0]
    assert g.plan.after <= 4 * STATE
    found, plain = (gradients(f, *given, policy=p) for p in (asked, OFF))
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("anchor", [0, 2])
def test_integers_that_lose_more_than_a_byte(anchor):
    """Whether or not states are kept on the way, and the numbers of what is lost beside them."""
    net = MomentumNet([torch.nn.Linear(16, 16) for _ in range(4)], gamma=1 / 300)
    asked = {"rules": {"reversible": {"force": True, "anchor": anchor}}}
    x = leaf(8, 16)
    assert links(partitioned(net, x, policy=asked).plan) == [8]
    found, plain = (gradients(net, x, policy=p) for p in (asked, OFF))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
