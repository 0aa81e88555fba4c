"""The probabilities of a softmax are kept in place of its logits."""

import pytest
import torch
from expecttest import TestCase

from .tools import gradients, leaf, partitioned, relative

N, D = 64, 4
CAUSAL = torch.ones(N, N, dtype=torch.bool).tril()
LOSSY = {preset: {"preset": preset, "min_bytes": 0} for preset in ("balanced", "compact")}


def attend(q, k, v):
    return (q @ k.mT).softmax(-1) @ v


def inputs():
    torch.manual_seed(0)
    return [leaf(2, N, D) for _ in range(3)]


class TestGraphs(TestCase):
    def test_hit(self):
        g = partitioned(attend, *inputs())
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[2, 64, 4]
primals_2: float32[2, 64, 4]
primals_3: float32[2, 64, 4]
permute: float32[2, 4, 64] = aten.permute.default(primals_1, [0, 2, 1])
expand: float32[2, 64, 4] = aten.expand.default(primals_2, [2, 64, 4])
expand_1: float32[2, 4, 64] = aten.expand.default(permute, [2, 4, 64])
bmm: float32[2, 64, 64] = aten.bmm.default(expand, expand_1)
amax: float32[2, 64, 1] = aten.amax.default(bmm, [-1], True)
sub: float32[2, 64, 64] = aten.sub.Tensor(bmm, amax)
exp: float32[2, 64, 64] = aten.exp.default(sub)
sum_1: float32[2, 64, 1] = aten.sum.dim_IntList(exp, [-1], True)
div_kept: float32[2, 64, 64] = aten.div.Tensor(exp, sum_1)
expand_2: float32[2, 64, 64] = aten.expand.default(div_kept, [2, 64, 64])
expand_3: float32[2, 64, 4] = aten.expand.default(primals_3, [2, 64, 4])
bmm_1: float32[2, 64, 4] = aten.bmm.default(expand_2, expand_3)
permute_2: float32[2, 4, 64] = aten.permute.default(expand_3, [0, 2, 1])
permute_3: float32[2, 4, 64] = aten.permute.default(expand, [0, 2, 1])
permute_4: float32[2, 64, 4] = aten.permute.default(expand_1, [0, 2, 1])
return [bmm_1, div_kept, permute_2, permute_3, permute_4]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
div_kept: float32[2, 64, 64]
permute_2: float32[2, 4, 64]
permute_3: float32[2, 4, 64]
permute_4: float32[2, 64, 4]
tangents_1: float32[2, 64, 4]
expand_2: float32[2, 64, 64] = aten.expand.default(div_kept, [2, 64, 64])
permute_1: float32[2, 64, 64] = aten.permute.default(expand_2, [0, 2, 1])
bmm_2: float32[2, 64, 4] = aten.bmm.default(permute_1, tangents_1)
bmm_3: float32[2, 64, 64] = aten.bmm.default(tangents_1, permute_2)
mul: float32[2, 64, 64] = aten.mul.Tensor(bmm_3, div_kept)
sum_2: float32[2, 64, 1] = aten.sum.dim_IntList(mul, [-1], True)
neg: float32[2, 64, 64] = aten.neg.default(div_kept)
fma: float32[2, 64, 64] = prims.fma.default(neg, sum_2, mul)
bmm_4: float32[2, 4, 64] = aten.bmm.default(permute_3, fma)
bmm_5: float32[2, 64, 4] = aten.bmm.default(fma, permute_4)
permute_5: float32[2, 64, 4] = aten.permute.default(bmm_4, [0, 2, 1])
return [permute_5, bmm_5, bmm_2]""",
        )

    def test_scaled_masked_and_dropped(self):
        def full(q, k, v):
            scores = torch.where(CAUSAL, 2 * (k @ q.mT).mT, -torch.inf)
            return torch.dropout(scores.softmax(-1), 0.5, True) @ v

        self.assertExpectedInline(
            partitioned(full, *inputs()).kept_set,
            """\
aten.div float32[2, 64, 64] 32768 -> 32768: kept: preset 'exact' keeps it exactly
prims.inductor_lookup_seed int64[] 8 -> 8: kept: preset 'exact' keeps it exactly""",
        )

    def test_multi_use_of_probabilities(self):
        def weighed(q, k, v):
            p = (q @ k.mT).softmax(-1)
            return p @ v + p.sin() @ v

        self.assertExpectedInline(
            partitioned(weighed, *inputs()).kept_set,
            """aten.div float32[2, 64, 64] 32768 -> 32768: kept: preset 'exact' keeps it exactly""",
        )

    def test_multi_use_of_logits(self):
        def used_twice(q, k, v):
            scores = q @ k.mT
            return scores.softmax(-1) @ v + scores.cos() @ v

        self.assertExpectedInline(
            partitioned(used_twice, *inputs()).kept_set,
            """\
aten.bmm float32[2, 64, 64] 32768 -> 32768: kept: preset 'exact' keeps it exactly
aten.amax float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.sum float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly""",
        )

    def test_larger_than_the_logits(self):
        def widened(q, k, v):
            return (q.half() @ k.half().mT).softmax(-1, dtype=torch.float32) @ v

        self.assertExpectedInline(
            partitioned(widened, *inputs()).kept_set,
            """\
aten.bmm float16[2, 64, 64] 16384 -> 16384: kept: preset 'exact' keeps it exactly
aten.amax float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.sum float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly
prims.convert_element_type float16[2, 64, 4] 1024 -> 1024: kept: preset 'exact' keeps it exactly
prims.convert_element_type float16[2, 64, 4] 1024 -> 1024: kept: preset 'exact' keeps it exactly""",
        )

    def test_logits_are_an_output(self):
        def returned(q, k, v):
            scores = q @ k.mT
            return scores.softmax(-1) @ v, scores.detach()

        self.assertExpectedInline(
            partitioned(returned, *inputs()).kept_set,
            """\
aten.bmm float32[2, 64, 64] 32768 -> 32768: kept: preset 'exact' keeps it exactly
aten.amax float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly
aten.sum float32[2, 64, 1] 512 -> 512: kept: preset 'exact' keeps it exactly""",
        )

    def test_without_recomputation_there_is_nothing_to_undo(self):
        g = partitioned(attend, *inputs(), policy={"rules": {"remat": False}})
        self.assertExpectedInline(
            g.kept_set,
            """aten.div float32[2, 64, 64] 32768 -> 32768: kept: preset 'exact' keeps it exactly""",
        )


def test_bits():
    """More than the preset's, as queries and keys."""
    for preset, wanted in (("balanced", "8 bits"), ("compact", "6 bits")):
        sites = partitioned(attend, *inputs(), policy=LOSSY[preset]).plan.sites
        assert [s.action.split(",")[0] for s in sites if s.residual.op == "aten.div"] == [wanted]


def test_in_as_many_bits_they_may_be_larger():
    def widened(q, k, v):
        return (q.half() @ k.half().mT).softmax(-1, dtype=torch.float32) @ v

    plan = partitioned(widened, *inputs(), policy=LOSSY["compact"]).plan
    assert plan.sites[0].residual.op == "aten.div"
    forbidden = LOSSY["compact"] | {"rules": {"encode": False}}
    assert (
        partitioned(widened, *inputs(), policy=forbidden).plan.entries[0].residual.op == "aten.bmm"
    )


@pytest.mark.parametrize(("preset", "bound"), [("balanced", 0.05), ("compact", 0.15)])
def test_error_is_bounded_where_logits_are_wide(preset, bound):
    """Codes of the logits were 21 and 116 % off here."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, N, 16).requires_grad_() for _ in range(3))

    def sharp(q, k, v):
        return (2 * (q @ k.mT)).masked_fill(~CAUSAL, -torch.inf).softmax(-1) @ v

    found = gradients(sharp, q, k, v, policy=LOSSY[preset])
    for one, exact in zip(found, gradients(sharp, q, k, v), strict=True):
        assert relative(one, exact) < bound
