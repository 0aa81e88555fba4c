"""Bits and indices are made of the values themselves, never of decoded ones."""

import pytest
import torch
from expecttest import TestCase
from torch import nn
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned, relative

LOSSY = {"preset": "balanced", "bits": 8, "group": 64, "min_bytes": 0}


class TestGraphs(TestCase):
    def test_hit(self):
        g = partitioned(lambda x, w: torch.relu(x @ w) @ w, leaf(8, 64), leaf(64, 64), policy=LOSSY)
        # le is evaluated in the forward, beside relu; its bits and the codes of relu are kept.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 64]
primals_2: float32[64, 64]
mm: float32[8, 64] = aten.mm.default(primals_1, primals_2)
relu: float32[8, 64] = aten.relu.default(mm)
reshape_default_1: float32[512] = aten.reshape.default(relu, [-1])
encode_default = fxmem.encode.default(reshape_default_1, 8, 64, None)
relu_codes: int8[512] = getitem(encode_default, 0)
relu_scales: bfloat16[8] = getitem(encode_default, 1)
le_1_kept: bool[8, 64] = aten.le.Scalar(relu, 0)
reshape_default: bool[512] = aten.reshape.default(le_1_kept, [-1])
le_1_kept_bits: uint8[64] = fxmem.pack.default(reshape_default, 1)
mm_1: float32[8, 64] = aten.mm.default(relu, primals_2)
permute_1: float32[64, 64] = aten.permute.default(primals_2, [1, 0])
permute_2: float32[64, 8] = aten.permute.default(primals_1, [1, 0])
return [mm_1, le_1_kept_bits, relu_codes, relu_scales, permute_1, permute_2]""",
        )
        # No comparison is left in the backward.
        self.assertExpectedInline(
            g.backward.text,
            """\
le_1_kept_bits: uint8[64]
relu_codes: int8[512]
relu_scales: bfloat16[8]
permute_1: float32[64, 64]
permute_2: float32[64, 8]
tangents_1: float32[8, 64]
decode_default: float32[8, 64] = fxmem.decode.default(relu_codes, relu_scales, [8, 64], [64, 1], 8, 64, torch.float32)
permute: float32[64, 8] = aten.permute.default(decode_default, [1, 0])
mm_2: float32[64, 64] = aten.mm.default(permute, tangents_1)
mm_3: float32[8, 64] = aten.mm.default(tangents_1, permute_1)
full_default: float32[] = aten.full.default([], 0.0, dtype=torch.float32, layout=torch.strided, device=cpu, pin_memory=False)
unpack_default: bool[8, 64] = fxmem.unpack.default(le_1_kept_bits, [8, 64], [64, 1], 1, torch.bool)
where: float32[8, 64] = aten.where.self(unpack_default, full_default, mm_3)
mm_4: float32[64, 64] = aten.mm.default(permute_2, where)
mm_5: float32[8, 64] = aten.mm.default(where, permute_1)
add: float32[64, 64] = aten.add.Tensor(mm_2, mm_4)
return [mm_5, add]""",
        )


class Frozen(nn.Module):
    """Its second product asks for no gradient of the weight, so its input is not needed."""

    def __init__(self, act=F.leaky_relu):
        super().__init__()
        self.act = act
        self.inner = nn.Linear(64, 64)
        self.outer = nn.Linear(64, 64)
        self.outer.weight.requires_grad_(False)

    def forward(self, x):
        return self.outer(self.act(self.inner(x)))


def test_frozen_consumer_keeps_the_bits_alone():
    g = partitioned(Frozen(), leaf(8, 64), policy={"min_bytes": 0})
    assert g.kept_set == "aten.gt bool[8, 64] 512 -> 64: 1 bit an element"


def test_trained_consumer_keeps_the_floats_and_exact_adds_no_bits():
    # In exact the mask comes from the floats that are kept anyway: it would cost, and win nothing.
    def trained(x, w):
        return torch.relu(x @ w) @ w

    g = partitioned(trained, leaf(8, 64), leaf(64, 64), policy={"min_bytes": 0})
    assert [e.residual.dtype for e in g.plan.entries] == ["float32"]
    assert g.plan.notes == ()


def test_rule_forbidden():
    def trained(x, w):
        return torch.relu(x @ w) @ w

    policy = {**LOSSY, "rules": {"discrete": False}}
    g = partitioned(trained, leaf(8, 64), leaf(64, 64), policy=policy)
    assert g.backward.ops["aten.le"] == 1


def bend(h):
    """A non-linearity whose derivative is between 0.5 and 1.5."""
    return h + 0.5 * h.sin()


NETS = {
    "relu": lambda x, w: torch.relu(torch.relu(x @ w) @ w),
    "leaky_relu": lambda x, w: F.leaky_relu(F.leaky_relu(x @ w, 0.1) - 0.5, 0.2) @ w,
    "clamp": lambda x, w: (x @ w).clamp(-0.5, 0.5) @ w,
    "where": lambda x, w: torch.where((x @ w) > (x @ w).mean(), x @ w, 0.1 * (x @ w)) @ w,
    "max_pool": lambda x, w: F.max_pool2d(bend(x @ w)[None], 2),
    "topk": lambda x, w: bend(x @ w).topk(4, 1).values,
    "max": lambda x, w: bend(x @ w).max(1).values,
    "abs": lambda x, w: (x @ w).abs(),
    "hardtanh chained": lambda x, w: F.hardtanh(F.hardtanh(x @ w) + 0.1),
}


@pytest.mark.parametrize("f", NETS.values(), ids=NETS)
def test_zeros_of_the_gradient_are_those_of_eager(f):
    # w is the identity and the gradient that comes in is nowhere zero, so zeros show the masks.
    inputs = leaf(64, 64), torch.eye(64)
    eager, found = gradients(f, *inputs)[1], gradients(f, *inputs, policy=LOSSY)[1]
    assert torch.equal(found == 0, eager == 0)


@pytest.mark.parametrize("f", NETS.values(), ids=NETS)
def test_gradient_error_is_that_of_the_codec(f):
    # A mask that errs in 0.3 % of its elements costs 5 %; 8-bit codes alone cost less than 1 %,
    # which is what the preset promises.
    inputs = leaf(64, 64), (torch.randn(64, 64) / 8).requires_grad_()
    eager, found = gradients(f, *inputs), gradients(f, *inputs, policy=LOSSY)
    assert max(map(relative, found[1:], eager[1:])) < 0.01


# Floats that jump, each once as what is recomputed and once as what another gradient is weighed by.
JUMPS = {
    "remainder": lambda h, g: torch.remainder(3 * h, 1.0).cosh(),
    "its divisor": lambda h, g: torch.remainder(h, g.sigmoid() + 1),
    "beside what it is of": lambda h, g: torch.remainder(h, 0.5).cosh() * h.cosh(),
    "fmod": lambda h, g: torch.fmod(h, 0.3).square(),
    "of both": lambda h, g: torch.fmod(3 * h, g.sigmoid() + 1),
    "quotient rounded down": lambda h, g: torch.div(h, 0.7, rounding_mode="floor") * h.sin(),
    "quotient cut off": lambda h, g: torch.div(h, g.exp(), rounding_mode="trunc") * g,
    "mantissa": lambda h, g: torch.frexp(h)[0].detach() * h,
    "sign": lambda h, g: torch.copysign(g, h).sin(),
    "sign of a number": lambda h, g: torch.copysign(torch.ones(()), h) * h.sin(),
}


@pytest.mark.parametrize("f", JUMPS.values(), ids=JUMPS)
def test_floats_that_jump(f):
    torch.manual_seed(0)
    x, w, v = leaf(64, 64), *((torch.randn(64, 64) / 8).requires_grad_() for _ in range(2))

    def run(x, w, v):
        return f(x @ w, x @ v) + 0 * v

    eager, found = gradients(run, x, w, v)[1:], gradients(run, x, w, v, policy=LOSSY)[1:]
    errors = [relative(a, b) for a, b in zip(found, eager, strict=True) if b.any()]
    assert max(errors) < 0.013  # two codes, one beside the other


def test_bits_of_bits():
    # gt_1 is computed from a value chosen by gt: both are the forward's own.
    def chained(x, w):
        h = x @ w
        h = torch.where(h > 0, h, 0.1 * h) - 0.5
        return torch.where(h > 0, h, 0.2 * h) @ w

    inputs = leaf(64, 64), (torch.randn(64, 64) / 8).requires_grad_()
    g = partitioned(chained, *inputs, policy=LOSSY)
    assert (g.forward.ops["aten.gt"], g.backward.ops["aten.gt"]) == (2, 0)
    eager, found = gradients(chained, *inputs), gradients(chained, *inputs, policy=LOSSY)
    assert max(map(relative, found[1:], eager[1:])) < 0.01  # the preset's promise


def test_float_that_no_code_touches_needs_no_hoisting():
    # The floats are an output too, so exact; a mask recomputed from them is exact as well.
    def returned(x, w):
        r = torch.relu(x @ w)
        return r @ w, r

    g = partitioned(returned, leaf(8, 64), leaf(64, 64), policy=LOSSY)
    assert g.plan.notes == ()


@pytest.mark.parametrize("few_bit", [True, False])
def test_a_note_is_made_of_what_is_kept_alone(few_bit):
    # A code of elu's derivative serves for the comparison too, which is then not evaluated at all.
    model = Frozen(F.elu)
    policy = {"preset": "compact", "min_bytes": 0, "rules": {"few_bit": few_bit}}
    g = partitioned(model, leaf(8, 64), policy=policy)
    assert g.forward.ops["fxmem.pack"] == (0 if few_bit else 1)
    notes = ("le: evaluated in the forward and kept, not recomputed",)
    assert g.plan.notes == (() if few_bit else notes)
