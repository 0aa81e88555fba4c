"""A value that is kept for a derivative alone: what becomes of the graphs."""

import torch
from expecttest import TestCase
from torch.nn import functional as F

from .tools import leaf, partitioned, renumbered

ONE = {"preset": "compact", "min_bytes": 0, "rules": {"few_bit": {"bits": 1}}}
THREE = {"preset": "compact", "min_bytes": 0}
ASKED = {**THREE, "rules": {"few_bit": True}}
FROZEN = torch.randn(64, 32)  # asks for no gradient, so the product's other factor is not needed


def hidden(act):
    """Return a function that keeps `x @ w` for the derivative of `act` alone."""
    return lambda x, w: act(x @ w) @ FROZEN


class TestGraphs(TestCase):
    def test_gelu(self):
        g = partitioned(hidden(F.gelu), leaf(8, 64), leaf(64, 64), policy=ONE)
        # classify follows mm; of mm 64 bytes are returned, one bit an element.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
primals_3: float32[64, 32]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
reshape_default: float32[512] = aten.reshape.default(mm, [-1])
mm_code: uint8[64] = fxmem.classify.default(reshape_default, [0.0], 1, False)
mul: float32[8, 64] = aten.mul.Tensor(mm, 0.5)
mul_1: float32[8, 64] = aten.mul.Tensor(mm, 0.7071067811865476)
erf: float32[8, 64] = aten.erf.default(mul_1)
add: float32[8, 64] = aten.add.Tensor(erf, 1)
mul_2: float32[8, 64] = aten.mul.Tensor(mul, add)
mm_1: float32[8, 32] = aten.mm.default(mul_2, primals_3)
permute: float32[32, 64] = aten.permute.default(primals_3, [1, 0])
permute_1: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_2: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [mm_1, mm_code, permute, permute_1, permute_2]""",
        )
        # One lookup and one product are left of GELU's derivative: no erf, no exp.
        self.assertExpectedInline(
            g.backward.text,
            """\
mm_code: uint8[64]
permute: float32[32, 64]
permute_1: float32[64, 8]
permute_2: float32[64, 64]
tangents_1: float32[8, 32]
mm_2: float32[8, 64] = aten.mm.default(tangents_1, permute)
lookup_default: float32[8, 64] = fxmem.lookup.default(mm_code, [0.09085, 0.90915], 1, [8, 64], [64, 1], torch.float32)
mul_9: float32[8, 64] = aten.mul.Tensor(mm_2, lookup_default)
mm_3: float32[64, 64] = aten.mm.default(permute_1, mul_9)
mm_4: float32[8, 64] = aten.mm.default(mul_9, permute_2)
return [mm_4, mm_3, None]""",
        )

    def test_silu(self):
        g = partitioned(hidden(F.silu), leaf(8, 64), leaf(64, 64), policy=ONE)
        # (mm * sigmoid) * (1 + y * (1 - sigmoid)), of the product y, has become mm * lookup.
        self.assertExpectedInline(
            renumbered(g.backward.text),
            """\
mm_code: uint8[64]
permute: float32[32, 64]
permute_1: float32[64, 8]
permute_2: float32[64, 64]
tangents_1: float32[8, 32]
mm: float32[8, 64] = aten.mm.default(tangents_1, permute)
lookup_default: float32[8, 64] = fxmem.lookup.default(mm_code, [0.18788, 0.81212], 1, [8, 64], [64, 1], torch.float32)
mul: float32[8, 64] = aten.mul.Tensor(mm, lookup_default)
mm_1: float32[64, 64] = aten.mm.default(permute_1, mul)
mm_2: float32[8, 64] = aten.mm.default(mul, permute_2)
return [mm_2, mm_1, None]""",
        )

    def test_even_derivative(self):
        g = partitioned(hidden(torch.tanh), leaf(8, 64), leaf(64, 64), policy=ONE)
        # Of mm the derivative is even: its absolute value is classified.
        self.assertExpectedInline(
            g.kept_set,
            """aten.sub float32[8, 64] 2048 -> 64: 1-bit code of tanh's derivative, off by at most 0.29 of its peak""",
        )
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
primals_3: float32[64, 32]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
reshape_default: float32[512] = aten.reshape.default(mm, [-1])
mm_code: uint8[64] = fxmem.classify.default(reshape_default, [0.79039], 1, True)
tanh: float32[8, 64] = aten.tanh.default(mm)
mm_1: float32[8, 32] = aten.mm.default(tanh, primals_3)
permute: float32[32, 64] = aten.permute.default(primals_3, [1, 0])
permute_1: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_2: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [mm_1, mm_code, permute, permute_1, permute_2]""",
        )

    def test_masks_go_with_the_value(self):
        g = partitioned(hidden(F.hardswish), leaf(8, 64), leaf(64, 64), policy=ONE)
        # le and lt are bits of mm; the steps of its code say the same.
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.le bool[8, 64] 512 -> 0: not kept: the code of mm serves
aten.lt bool[8, 64] 512 -> 0: not kept: the code of mm serves
aten.mm float32[8, 64] 2048 -> 64: 1-bit code of hardswish's derivative, off by at most 0.5 of its peak""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
mm_code: uint8[64]
permute: float32[32, 64]
permute_1: float32[64, 8]
permute_2: float32[64, 64]
tangents_1: float32[8, 32]
mm_2: float32[8, 64] = aten.mm.default(tangents_1, permute)
lookup_default: float32[8, 64] = fxmem.lookup.default(mm_code, [0.23564, 0.76436], 1, [8, 64], [64, 1], torch.float32)
where_1: float32[8, 64] = aten.mul.Tensor(mm_2, lookup_default)
mm_3: float32[64, 64] = aten.mm.default(permute_1, where_1)
mm_4: float32[8, 64] = aten.mm.default(where_1, permute_2)
return [mm_4, mm_3, None]""",
        )

    def test_two_consumers(self):
        def twice(x, w):
            y = F.silu(x @ w)
            return y @ FROZEN, y.sum(0)

        g = partitioned(twice, leaf(8, 64), leaf(64, 64), policy=ONE)
        # Their gradients are added before the derivative weighs them.
        self.assertExpectedInline(
            renumbered(g.backward.text),
            """\
mm_code: uint8[64]
permute: float32[32, 64]
permute_1: float32[64, 8]
permute_2: float32[64, 64]
tangents_1: float32[8, 32]
tangents_2: float32[64]
unsqueeze: float32[1, 64] = aten.unsqueeze.default(tangents_2, 0)
expand: float32[8, 64] = aten.expand.default(unsqueeze, [8, 64])
mm: float32[8, 64] = aten.mm.default(tangents_1, permute)
add: float32[8, 64] = aten.add.Tensor(expand, mm)
lookup_default: float32[8, 64] = fxmem.lookup.default(mm_code, [0.18788, 0.81212], 1, [8, 64], [64, 1], torch.float32)
mul: float32[8, 64] = aten.mul.Tensor(add, lookup_default)
mm_1: float32[64, 64] = aten.mm.default(permute_1, mul)
mm_2: float32[8, 64] = aten.mm.default(mul, permute_2)
return [mm_2, mm_1, None]""",
        )

    def test_function_of_a_view_with_a_bias(self):
        def biased(x, w, b):
            return F.gelu((x @ w).view(2, 4, 64) + b).transpose(1, 2).sum(1)

        g = partitioned(biased, leaf(8, 64), leaf(64, 64), leaf(64), policy=ONE)
        # mm is kept, add is what the derivative is of: its code, and neither mm nor the bias.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
primals_3: float32[64]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
view: float32[2, 4, 64] = aten.view.default(mm, [2, 4, 64])
add: float32[2, 4, 64] = aten.add.Tensor(view, primals_3)
reshape_default: float32[512] = aten.reshape.default(add, [-1])
add_code: uint8[64] = fxmem.classify.default(reshape_default, [0.0], 1, False)
mul: float32[2, 4, 64] = aten.mul.Tensor(add, 0.5)
mul_1: float32[2, 4, 64] = aten.mul.Tensor(add, 0.7071067811865476)
erf: float32[2, 4, 64] = aten.erf.default(mul_1)
add_1: float32[2, 4, 64] = aten.add.Tensor(erf, 1)
mul_2: float32[2, 4, 64] = aten.mul.Tensor(mul, add_1)
permute: float32[2, 64, 4] = aten.permute.default(mul_2, [0, 2, 1])
sum_1: float32[2, 4] = aten.sum.dim_IntList(permute, [1])
permute_2: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
permute_3: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
return [sum_1, add_code, permute_2, permute_3]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
add_code: uint8[64]
permute_2: float32[64, 8]
permute_3: float32[64, 64]
tangents_1: float32[2, 4]
unsqueeze: float32[2, 1, 4] = aten.unsqueeze.default(tangents_1, 1)
expand: float32[2, 64, 4] = aten.expand.default(unsqueeze, [2, 64, 4])
permute_1: float32[2, 4, 64] = aten.permute.default(expand, [0, 2, 1])
lookup_default: float32[2, 4, 64] = fxmem.lookup.default(add_code, [0.09085, 0.90915], 1, [2, 4, 64], [256, 64, 1], torch.float32)
mul_9: float32[2, 4, 64] = aten.mul.Tensor(permute_1, lookup_default)
sum_2: float32[1, 1, 64] = aten.sum.dim_IntList(mul_9, [0, 1], True)
view_1: float32[64] = aten.view.default(sum_2, [64])
view_2: float32[8, 64] = aten.view.default(mul_9, [8, 64])
mm_1: float32[64, 64] = aten.mm.default(permute_2, view_2)
mm_2: float32[8, 64] = aten.mm.default(view_2, permute_3)
return [mm_2, mm_1, view_1]""",
        )
