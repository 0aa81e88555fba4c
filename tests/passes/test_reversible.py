"""Reversible chains: states are recomputed from the last two, and gradients are those of eager."""

import pytest
import torch
from expecttest import TestCase

from .tools import gradients, leaf, partitioned, relative

OFF = {"rules": {"reversible": False}}
# States as they are: test_reversible_widened.py has those of float32 in float64, as they are carried
# unless told otherwise.
ASKED = {"rules": {"reversible": {"float64": False}}}
FORCED = {"rules": {"reversible": {"force": True, "float64": False}}}
NONE = "reversible: no chain of 3 links or more is found in this graph; fewer may be chance"
NOTE = "reversible: {} links are recomputed from their last two states, {}"


def branch(x, w):
    return torch.tanh(x @ w)


def chain(a, b, ws, f=branch, couple=lambda s, f: s + f):
    for w in ws:
        a, b = b, couple(a, f(b, w))
    return a, b


def weights(n, d=16):
    return [(torch.randn(d, d) / d**0.5).requires_grad_() for _ in range(n)]


def inputs(*shape):
    """Two streams that the graph itself computes, so that they are not free to keep."""
    return leaf(*shape), leaf(*shape)


def run(a, b, *ws, **how):
    a, b = chain(a.sin(), b.cos(), ws, **how)
    return a * b


def links(plan):
    return [int(note.split()[1]) for note in plan.notes if "are recomputed" in note]


def assert_gradients_match(f, *given, policy=FORCED, bound=2.0):
    """Against eager in fp64: at most `bound` times the error of the plain cut in fp32."""
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in given]
    exact = gradients(f, *exact)
    found, plain = (gradients(f, *given, policy=p) for p in (policy, OFF))
    for x, p, e in zip(found, plain, exact, strict=True):
        assert relative(x.double(), e) <= bound * relative(p.double(), e) + 1e-6


class TestGraph(TestCase):
    def test_tiny_chain(self):
        g = partitioned(run, *inputs(8, 16), *weights(3), policy=FORCED)
        self.assertEqual(g.plan.notes, (NOTE.format(3, "float32"),))
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.add float32[8, 16] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.add float32[8, 16] 512 -> 512: kept: preset 'exact' keeps it exactly""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
primals_1: float32[8, 16]
primals_2: float32[8, 16]
primals_3: float32[16, 16]
primals_4: float32[16, 16]
primals_5: float32[16, 16]
add_1: float32[8, 16]
add_2: float32[8, 16]
tangents_1: float32[8, 16]
mul_1: float32[8, 16] = aten.mul.Tensor(tangents_1, add_1)
mul_2: float32[8, 16] = aten.mul.Tensor(tangents_1, add_2)
permute: float32[16, 8] = aten.permute.default(add_1, [1, 0])
permute_1: float32[16, 16] = aten.permute.default(primals_5, [1, 0])
permute_3: float32[16, 16] = aten.permute.default(primals_4, [1, 0])
cos: float32[8, 16] = aten.cos.default(primals_2)
permute_4: float32[16, 8] = aten.permute.default(cos, [1, 0])
permute_5: float32[16, 16] = aten.permute.default(primals_3, [1, 0])
sin_1: float32[8, 16] = aten.sin.default(primals_2)
neg: float32[8, 16] = aten.neg.default(sin_1)
cos_1: float32[8, 16] = aten.cos.default(primals_1)
mm_9: float32[8, 16] = aten.mm.default(add_1, primals_5)
tanh_3: float32[8, 16] = aten.tanh.default(mm_9)
mul_3: float32[8, 16] = aten.mul.Tensor(tanh_3, tanh_3)
sub: float32[8, 16] = aten.sub.Tensor(1, mul_3)
mul_4: float32[8, 16] = aten.mul.Tensor(mul_1, sub)
mm_3: float32[16, 16] = aten.mm.default(permute, mul_4)
mm_4: float32[8, 16] = aten.mm.default(mul_4, permute_1)
add_3: float32[8, 16] = aten.add.Tensor(mul_2, mm_4)
sub_tensor: float32[8, 16] = aten.sub.Tensor(add_2, tanh_3)
permute_2: float32[16, 8] = aten.permute.default(sub_tensor, [1, 0])
mm_10: float32[8, 16] = aten.mm.default(sub_tensor, primals_4)
tanh_4: float32[8, 16] = aten.tanh.default(mm_10)
mul_5: float32[8, 16] = aten.mul.Tensor(tanh_4, tanh_4)
sub_1: float32[8, 16] = aten.sub.Tensor(1, mul_5)
mul_6: float32[8, 16] = aten.mul.Tensor(add_3, sub_1)
mm_5: float32[16, 16] = aten.mm.default(permute_2, mul_6)
mm_6: float32[8, 16] = aten.mm.default(mul_6, permute_3)
add_4: float32[8, 16] = aten.add.Tensor(mul_1, mm_6)
mul_10: float32[8, 16] = aten.mul.Tensor(add_4, cos_1)
mm_11: float32[8, 16] = aten.mm.default(cos, primals_3)
tanh_5: float32[8, 16] = aten.tanh.default(mm_11)
mul_7: float32[8, 16] = aten.mul.Tensor(tanh_5, tanh_5)
sub_2: float32[8, 16] = aten.sub.Tensor(1, mul_7)
mul_8: float32[8, 16] = aten.mul.Tensor(add_4, sub_2)
mm_7: float32[16, 16] = aten.mm.default(permute_4, mul_8)
mm_8: float32[8, 16] = aten.mm.default(mul_8, permute_5)
add_5: float32[8, 16] = aten.add.Tensor(add_3, mm_8)
mul_9: float32[8, 16] = aten.mul.Tensor(add_5, neg)
return [mul_10, mul_9, mm_7, mm_5, mm_3]""",
        )


COUPLINGS = {
    "plus": lambda s, f: s + f,
    "commuted": lambda s, f: f + s,
    "minus": lambda s, f: s - f,
    "from the branch": lambda s, f: f - s,
    "alpha": lambda s, f: torch.add(s, f, alpha=0.5),
    "alpha, minus": lambda s, f: torch.sub(s, f, alpha=0.5),
    "scaled": lambda s, f: s + 0.3 * f,
    "gated": lambda s, f: s + f * f.sigmoid(),
    "one for all": lambda s, f: s + f.mean(-1, keepdim=True),
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings(name):
    def f(a, b, *ws):
        return run(a, b, *ws, couple=COUPLINGS[name])

    given = *inputs(8, 16), *weights(6)
    assert links(partitioned(f, *given, policy=ASKED).plan) == [6]
    assert_gradients_match(f, *given)


def test_kept_bytes_do_not_grow_with_depth():
    def kept(depth, policy=ASKED):
        torch._dynamo.reset()
        return partitioned(run, *inputs(64, 16), *weights(depth), policy=policy).plan.after

    assert kept(4) == kept(8) == kept(16) == 2 * 64 * 16 * 4
    assert kept(16, OFF) > kept(8, OFF) + 8 * 64 * 16 * 4 - 1


def test_residuals_that_remain_are_kept_exactly():
    # Whatever is lost in them is lost in every state that is recomputed.
    policy = {"preset": "balanced", "min_bytes": 0, **FORCED}
    g = partitioned(run, *inputs(64, 16), *weights(4), policy=policy)
    assert g.why == ["a reversible chain is recomputed from it"] * 2


def test_ordinary_residual_network_has_no_chain():
    def f(x, *ws):
        for w in ws:
            x = x + branch(x + 1, w)
        return x

    assert partitioned(f, leaf(8, 16), *weights(6), policy=FORCED).plan.notes == (NONE,)


def test_branch_that_reads_what_it_is_added_to_is_no_link():
    def f(a, b, *ws):
        for w in ws:
            a, b = b, a + branch(a + b, w)
        return a * b

    assert partitioned(f, *inputs(8, 16), *weights(6), policy=FORCED).plan.notes == (NONE,)


def test_where_it_wins_nothing_it_is_not_taken():
    # Every state is an output, which the caller holds.
    def f(a, b, *ws):
        states = [a.sin(), b.cos()]
        for _ in ws:
            states.append(states[-2] + states[-1] * 0.5)
        return tuple(states)

    given = *inputs(8, 16), *weights(4)
    (note,) = partitioned(f, *given, policy=ASKED).plan.notes
    assert note.startswith("reversible: not taken")
    torch._dynamo.reset()
    assert links(partitioned(f, *given, policy=FORCED).plan) == [4]


def test_codes_that_are_smaller_than_the_states_are_kept_instead():
    """Priced as it will be stored: four layers in a byte an element are less than two in four."""
    given = *inputs(64, 16), *weights(4)
    balanced = {"preset": "balanced", "min_bytes": 0, **ASKED}
    g = partitioned(run, *given, policy=balanced)
    assert g.plan.notes[-1].startswith("reversible: not taken, for it would keep 8192 bytes, not ")
    assert g.plan.after < 8192
    torch._dynamo.reset()
    deep = *inputs(64, 16), *weights(16)
    assert links(partitioned(run, *deep, policy=balanced).plan) == [16]


@pytest.mark.parametrize("preset", ["exact", "balanced", "compact"])
def test_in_every_preset(preset):
    given = *inputs(64, 16), *weights(24)
    assert links(partitioned(run, *given, policy={"preset": preset, "min_bytes": 0}).plan) == [24]


def test_forbidden():
    assert partitioned(run, *inputs(8, 16), *weights(4), policy=OFF).plan.notes == ()
