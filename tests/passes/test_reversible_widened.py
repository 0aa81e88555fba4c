"""Half-precision states that are carried in float32: none are kept on the way, and less is lost."""

import pytest
import torch
from expecttest import TestCase
from torch.nn import functional as F

from .test_reversible import OFF, branch, inputs, links, run, weights
from .test_reversible_anchors import as_dtype, asked, error, momentum
from .tools import TestBackend, gradients, partitioned

HALF = (torch.bfloat16, torch.float16)


def normed(a, b, *ws):
    a, b = a.sin(), b.cos()
    for w in ws:
        a, b = b, a + F.gelu(F.layer_norm(b, (16,)) @ w)
    return F.layer_norm(a * b, (16,))


def affine(a, b, *ws):
    a, b = a.sin(), b.cos()
    for w in ws:
        a, b = b, a * (0.1 * branch(b, w)).exp() + branch(b, w)
    return a * b


def lerps(v, x, *ws):
    v, x = v.sin(), x.cos()
    for w in ws:
        v = torch.lerp(v, branch(x, w), 0.02)
        x = x + v
    return v * x


def wide_lerps(v, x, *ws):
    v, x = v.sin(), x.cos()
    for w in ws:
        v = torch.lerp(v.float(), branch(x, w).float(), 0.02).to(v.dtype)
        x = x + v
    return v * x


def viewed(a, b, *ws):
    a, b = a.sin(), b.cos()
    for w in ws:
        a, b = b, (a.view(2, 4, 16) + branch(b, w).view(2, 4, 16)).view(8, 16)
    return a * b


NETS = {
    "sums": (run, 1),
    "norm": (normed, 1),
    "affine": (affine, 1),
    "momentum": (momentum(0.98), 2),
    "lerp": (lerps, 2),
    "lerp in float32": (wide_lerps, 2),
    "views": (viewed, 1),
}


def rounded(depth, dtype=torch.bfloat16):
    return as_dtype((*inputs(8, 16), *weights(depth)), dtype)


def grown(gain=1.0):
    """States that nothing normalises."""

    def net(a, b, *ws):
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, a + gain * F.relu(b @ w)
        return F.layer_norm(a, [16]) * F.layer_norm(b, [16])

    return net


def small(a, b, *ws):
    """States that are as small as embeddings, beside what their branches add."""
    a, b = 0.02 * a.sin(), 0.02 * b.cos()
    for w in ws:
        a, b = b, a + 20 * F.gelu(F.layer_norm(b, [16]) @ w)
    return F.layer_norm(a, [16]) * F.layer_norm(b, [16])


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_kept_on_the_way(name):
    net, each = NETS[name]
    depth = 14 // each
    (note,) = partitioned(net, *rounded(depth), policy=asked()).plan.notes
    assert note == (
        "reversible: 14 links are recomputed from their last two states, float32 for bfloat16"
    )


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("norm", torch.bfloat16),
        ("norm", torch.float16),
        ("momentum", torch.float16),
        ("lerp in float32", torch.bfloat16),
    ],
)
def test_error(name, dtype):
    """Against fp64: no worse than that of half precision with every state kept."""
    net, each = NETS[name]
    given = rounded(24 // each, dtype)
    exact = gradients(net, *as_dtype(given, torch.float64))
    found, plain = (gradients(net, *given, policy=p) for p in (asked(), OFF))
    assert error(found, exact) <= 1.05 * error(plain, exact)


def kept(net, depth, dtype):
    torch._dynamo.reset()
    return partitioned(net, *rounded(depth, dtype), policy=asked(float64=True)).plan.after


@pytest.mark.parametrize("dtype", HALF)
def test_kept_bytes_are_flat_in_depth(dtype):
    assert kept(run, 6, dtype) == kept(run, 40, dtype) == 2 * 8 * 16 * 4


def test_float32_is_carried_in_float64():
    assert kept(run, 6, torch.float32) == kept(run, 30, torch.float32) == 2 * 8 * 16 * 8
    assert kept(grown(), 14, torch.float32) == kept(grown(), 24, torch.float32)


@pytest.mark.parametrize(
    "net, depth", [(grown(), 14), (grown(10.0), 8), (small, 12), (momentum(0.5), 10)]
)
def test_what_float64_gives_float32(net, depth):
    """No state is kept on the way, and the gradient is as good as with all of them kept."""
    given = rounded(depth, torch.float32)
    (note,) = partitioned(net, *given, policy=asked(float64=True)).plan.notes
    assert note.endswith("last two states, float64 for float32")
    exact = gradients(net, *as_dtype(given, torch.float64))
    found, plain = (gradients(net, *given, policy=p) for p in (asked(float64=True), OFF))
    assert [t.dtype for t in found] == [t.dtype for t in plain]
    assert error(found, exact) <= 1.1 * error(plain, exact)


def test_with_anchors_that_are_asked_for_states_stay_as_they_are():
    (note,) = partitioned(run, *rounded(14), policy=asked(anchor=8)).plan.notes
    assert "two states, bfloat16; 2 states are kept" in note


def test_states_used_elsewhere():
    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        aside = 0
        for w in ws:
            a, b = b, a + branch(b, w)
            aside = aside + b.exp().sum()
        return a * b, aside, b

    given = rounded(8)
    g = partitioned(f, *given, policy=asked())
    assert links(g.plan) == [8] and "float32 for bfloat16" in g.plan.notes[0]
    exact = gradients(f, *as_dtype(given, torch.float64))
    found, plain = (gradients(f, *given, policy=p) for p in (asked(), OFF))
    assert [t.dtype for t in found] == [t.dtype for t in plain]
    assert error(found, exact) <= 1.1 * error(plain, exact)


def test_states_in_another_memory_order():
    def f(v, x, *ws):
        v, x = v.sin().t(), x.cos()
        for w in ws:
            h = branch(x, w)
            v = h + 0.98 * (v - h)  # laid out as h is
            x = x + v
        return v.view(-1)[3:].sin(), v, x

    given = as_dtype((*inputs(16, 16), *weights(7)), torch.bfloat16)
    assert links(partitioned(f, *given, policy=asked()).plan) == [14]
    torch._dynamo.reset()
    out = torch.compile(f, backend=TestBackend(asked()))(*given)
    assert [t.stride() for t in out] == [(1,), (16, 1), (16, 1)]
    exact = gradients(f, *as_dtype(given, torch.float64))
    found, plain = (gradients(f, *given, policy=p) for p in (asked(), OFF))
    assert error(found, exact) <= 1.1 * error(plain, exact)


def test_sizes_that_change_among_the_operands():
    def f(a, b, *ws):
        size = a.size(0)
        a, b = a.sin(), b.cos()
        for w in ws:
            a, b = b, (a + size) + branch(b, w)
        return a * b

    plan = partitioned(f, *rounded(6), policy=asked(), dynamic=True).plan
    assert links(plan) == [6] and "float32 for bfloat16" in plan.notes[0]


class TestGraph(TestCase):
    def test_forward(self):
        g = partitioned(run, *rounded(8), policy=asked())
        text = g.forward.text.replace("convert_element_type", "cast").replace("_default", "")
        head = [line.split(" = ") for line in text.split("sin: ")[1].splitlines()[:9]]
        self.assertExpectedInline(
            "\n".join(f"{made.split(':')[0]} = {call}" for made, call in head[1:]),
            """\
cast = prims.cast.default(sin, torch.float32)
cos = aten.cos.default(primals_2)
cast_1 = prims.cast.default(cos, torch.float32)
cast_2 = prims.cast.default(cast_1, torch.bfloat16)
mm = aten.mm.default(cast_2, primals_3)
tanh = aten.tanh.default(mm)
cast_3 = prims.cast.default(tanh, torch.float32)
add_tensor = aten.add.Tensor(cast, cast_3)""",
        )
