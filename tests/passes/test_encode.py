"""Floating residuals in a few bits: what becomes of the graphs."""

from expecttest import TestCase
from torch.nn import functional as F

from .tools import leaf, partitioned

EIGHT = {"preset": "balanced", "bits": 8, "group": 64, "min_bytes": 0}


def hidden(x, w):
    return (x @ w).sinh()


class TestGraphs(TestCase):
    def test_one_storage(self):
        g = partitioned(hidden, leaf(8, 64), leaf(64, 64), policy=EIGHT)
        # encode follows mm, its producer; mm itself is no longer returned.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
reshape_default: float32[512] = aten.reshape.default(mm, [-1])
encode_default = fxmem.encode.default(reshape_default, 8, 64, None)
mm_codes: int8[512] = getitem(encode_default, 0)
mm_scales: bfloat16[8] = getitem(encode_default, 1)
sinh: float32[8, 64] = aten.sinh.default(mm)
permute: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_1: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [sinh, mm_codes, mm_scales, permute, permute_1]""",
        )
        # decode comes right before cosh, the first use, with the strides of mm.
        self.assertExpectedInline(
            g.backward.text,
            """\
mm_codes: int8[512]
mm_scales: bfloat16[8]
permute: float32[64, 8]
permute_1: float32[64, 64]
tangents_1: float32[8, 64]
decode_default: float32[8, 64] = fxmem.decode.default(mm_codes, mm_scales, [8, 64], [64, 1], 8, 64, torch.float32)
cosh: float32[8, 64] = aten.cosh.default(decode_default)
mul: float32[8, 64] = aten.mul.Tensor(tangents_1, cosh)
mm_1: float32[64, 64] = aten.mm.default(permute, mul)
mm_2: float32[8, 64] = aten.mm.default(mul, permute_1)
return [mm_2, mm_1]""",
        )

    def test_two_views_one_code(self):
        def two_views(x, w):
            h = x @ w
            return h.view(16, 32).sinh(), h.t() @ h

        g = partitioned(two_views, leaf(8, 64), leaf(64, 64), policy=EIGHT)
        # One encode; the backward decodes once and replays the view.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
reshape_default: float32[512] = aten.reshape.default(mm, [-1])
encode_default = fxmem.encode.default(reshape_default, 8, 64, None)
mm_codes: int8[512] = getitem(encode_default, 0)
mm_scales: bfloat16[8] = getitem(encode_default, 1)
view: float32[16, 32] = aten.view.default(mm, [16, 32])
sinh: float32[16, 32] = aten.sinh.default(view)
permute: float32[64, 8] = aten.permute.default(mm, [1, 0])
mm_1: float32[64, 64] = aten.mm.default(permute, mm)
permute_5: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_6: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [sinh, mm_1, mm_codes, mm_scales, permute_5, permute_6]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
mm_codes: int8[512]
mm_scales: bfloat16[8]
permute_5: float32[64, 8]
permute_6: float32[64, 64]
tangents_1: float32[16, 32]
tangents_2: float32[64, 64]
decode_default: float32[8, 64] = fxmem.decode.default(mm_codes, mm_scales, [8, 64], [64, 1], 8, 64, torch.float32)
permute: float32[64, 8] = aten.permute.default(decode_default, [1, 0])
permute_1: float32[8, 64] = aten.permute.default(permute, [1, 0])
mm_2: float32[8, 64] = aten.mm.default(permute_1, tangents_2)
permute_2: float32[64, 64] = aten.permute.default(tangents_2, [1, 0])
mm_3: float32[8, 64] = aten.mm.default(decode_default, permute_2)
add: float32[8, 64] = aten.add.Tensor(mm_2, mm_3)
view: float32[16, 32] = aten.view.default(decode_default, [16, 32])
cosh: float32[16, 32] = aten.cosh.default(view)
mul: float32[16, 32] = aten.mul.Tensor(tangents_1, cosh)
view_1: float32[8, 64] = aten.view.default(mul, [8, 64])
add_1: float32[8, 64] = aten.add.Tensor(add, view_1)
mm_4: float32[64, 64] = aten.mm.default(permute_5, add_1)
mm_5: float32[8, 64] = aten.mm.default(add_1, permute_6)
return [mm_5, mm_4]""",
        )

    def test_only_parts_are_needed(self):
        def part(x, w):
            q, k, v = (x @ w).chunk(3, 1)
            return q @ q.t() + (k + v).sum()

        g = partitioned(part, leaf(8, 64), leaf(64, 192), policy=EIGHT)
        # Of mm only its first third is encoded, gaps closed: 512 of 1536 elements.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 192]
mm: float32[8, 192] = aten.mm.default(primals_1, primals_2)
split = aten.split.Tensor(mm, 64, 1)
getitem: float32[8, 64] = getitem(split, 0)
getitem_1: float32[8, 64] = getitem(split, 1)
getitem_2: float32[8, 64] = getitem(split, 2)
permute: float32[64, 8] = aten.permute.default(getitem, [1, 0])
permute_default: float32[8, 64] = aten.permute.default(permute, [1, 0])
reshape_default: float32[512] = aten.reshape.default(permute_default, [-1])
encode_default = fxmem.encode.default(reshape_default, 8, 64, None)
permute_codes: int8[512] = getitem(encode_default, 0)
permute_scales: bfloat16[8] = getitem(encode_default, 1)
mm_1: float32[8, 8] = aten.mm.default(getitem, permute)
add: float32[8, 64] = aten.add.Tensor(getitem_1, getitem_2)
sum_1: float32[] = aten.sum.default(add)
add_1: float32[8, 8] = aten.add.Tensor(mm_1, sum_1)
permute_4: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_5: float32[192, 64] = aten.permute.default(primals_2, [1, 0])
return [add_1, permute_codes, permute_scales, permute_4, permute_5]""",
        )

    def test_stochastic(self):
        policy = {**EIGHT, "rounding": "stochastic"}
        g = partitioned(hidden, leaf(8, 64), leaf(64, 64), policy=policy)
        # encode takes a seed drawn in the forward; the backward draws nothing.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
reshape_default: float32[512] = aten.reshape.default(mm, [-1])
inductor_seeds_default: int64[1] = prims.inductor_seeds.default(1, cpu)
encode_default = fxmem.encode.default(reshape_default, 8, 64, inductor_seeds_default)
mm_codes: int8[512] = getitem(encode_default, 0)
mm_scales: bfloat16[8] = getitem(encode_default, 1)
sinh: float32[8, 64] = aten.sinh.default(mm)
permute: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_1: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [sinh, mm_codes, mm_scales, permute, permute_1]""",
        )
        assert g.backward.ops["prims.inductor_seeds"] == 0


def test_value_is_used_in_the_forward_too():
    g = partitioned(lambda x, w: F.gelu(x @ w) @ w, leaf(8, 64), leaf(64, 64), policy=EIGHT)
    assert g.forward.ops["fxmem.encode"] == 1
    assert g.forward.ops["aten.erf"] == 1
    # The forward goes on with the value itself, not with its code.
    assert g.forward.ops["fxmem.decode"] == 0
