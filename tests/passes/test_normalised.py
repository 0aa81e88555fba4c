"""What a norm reads is kept normalised, where groups of codes would hold parts of several."""

import pytest
import torch
from expecttest import TestCase
from torch.nn import functional as F

from .tools import gradients, partitioned, partitions, relative

PRESETS = {"balanced": 0.01, "compact": 0.07}  # the gradient's error at most


NOISE = torch.randn(8192, generator=torch.Generator().manual_seed(0))
WEIGHTS = {d: NOISE.to(d) for d in (torch.bfloat16, torch.float32, torch.float64)}


def weighed(f):
    """A loss that weighs each element by its own number: of equal ones norms leave next to none."""

    def loss(x, w):
        y = f(x, w).flatten()
        return (y * WEIGHTS[y.dtype][: y.numel()]).sum()

    return loss


def options(preset):
    return {"preset": preset, "min_bytes": 0}


def scales(n, sigma):
    torch.manual_seed(0)
    return (sigma * torch.randn(n)).exp()


def rows(d, sigma):
    x = torch.randn(64, d) * scales(64, sigma)[:, None]
    return x.requires_grad_(), (torch.randn(d, d) / d**0.5).requires_grad_()


def columns(d, sigma):
    return torch.randn(128, d).requires_grad_(), (
        torch.randn(d, d) * scales(d, sigma)
    ).requires_grad_()


def pictures(sigma):
    w = torch.randn(24, 6, 3, 3) * scales(24, sigma)[:, None, None, None]
    return torch.randn(4, 6, 7, 7).requires_grad_(), w.requires_grad_()


def batch_norm(x, w):
    return F.silu(F.batch_norm(x @ w, None, None, training=True))


def of_pictures(x, w):
    return F.silu(F.batch_norm(F.conv2d(x, w, padding=1), None, None, training=True))


MEANS = scales(48, 2.0)  # as the columns' own


def in_use(x, w):
    mean = MEANS.to(x.dtype)
    return F.silu(F.batch_norm(x @ w, mean, 48 * mean.square(), training=False))


def layer_norm(x, w):
    return F.layer_norm(x @ w, (w.shape[1],)).sinh()


def rms_norm(x, w):
    return F.rms_norm(x @ w, (w.shape[1],)).tanh()


def by_hand(x, w):
    h = (x @ w).float()
    return torch.tanh(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))


def of_heads(x, w):
    h = (x @ w).view(8, 8, 5, -1).transpose(1, 2)
    return F.rms_norm(h, (h.shape[-1],)).tanh()


def of_unit_length(x, w):
    return F.normalize(x @ w, dim=-1).tanh()


def of_groups(x, w):
    return F.silu(F.group_norm(F.conv2d(x, w), 3))


CASES = {
    "batch norm of columns": (batch_norm, columns(48, 2.0)),
    "batch norm in use": (in_use, columns(48, 2.0)),
    "batch norm of 7 x 7 pictures": (of_pictures, pictures(2.0)),
    "layer norm of 16": (layer_norm, rows(16, 2.0)),
    "layer norm of 80": (layer_norm, rows(80, 1.5)),
    "rms norm of 48": (rms_norm, rows(48, 1.5)),
    "rms norm by hand": (by_hand, rows(48, 1.5)),
    "rms norm of heads": (of_heads, rows(40, 1.5)),
    "unit length": (of_unit_length, rows(24, 1.5)),
    "group norm": (of_groups, pictures(0.5)),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("f", "given"), CASES.values(), ids=CASES)
def test_gradient(f, given, preset):
    exact = [t.detach().double().requires_grad_() for t in given]
    wanted = gradients(weighed(f), *exact)[1:]
    found = gradients(weighed(f), *given, policy=options(preset))[1:]
    assert max(map(relative, found, wanted)) < PRESETS[preset]


@pytest.mark.parametrize("f", [batch_norm, layer_norm, by_hand])
def test_half_precision_is_kept_in_as_few_bytes(f):
    given = [t.detach().bfloat16().requires_grad_() for t in columns(48, 1.0)]
    coded = partitioned(weighed(f), *given, policy=options("balanced"))
    (norm,) = (e for e in coded.plan.entries if e.nbytes < e.residual.nbytes)
    assert norm.residual.dtype == "bfloat16" and norm.nbytes < 0.6 * norm.residual.nbytes
    found = gradients(weighed(f), *given, policy=options("balanced"))[1:]
    wanted = gradients(weighed(f), *[t.detach().double().requires_grad_() for t in given])[1:]
    assert max(relative(a.double(), b) for a, b in zip(found, wanted, strict=True)) < 0.03


class TestGraphs(TestCase):
    def test_hit(self):
        g = partitioned(layer_norm, *rows(16, 1.0), policy=options("balanced"))
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.mul float32[64, 16] 4096 -> 1056: 8 bits, groups of 64
aten.var_mean[1] float32[64, 1] 256 -> 256: kept: what an operator returns beside its main output (log-sum-exp, state) stays exact
aten.rsqrt float32[64, 1] 256 -> 256: kept: a statistic: small, and its exactness matters""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
mul_codes: int8[1024]
mul_scales: bfloat16[16]
getitem_1: float32[64, 1]
rsqrt: float32[64, 1]
permute: float32[16, 64]
permute_1: float32[16, 16]
tangents_1: float32[64, 16]
decode_default: float32[64, 16] = fxmem.decode.default(mul_codes, mul_scales, [64, 16], [16, 1], 8, 64, torch.float32)
permute_default_1: float32[64, 16] = aten.permute.default(decode_default, [0, 1])
reshape_default_2: float32[1024] = aten.reshape.default(permute_default_1, [-1])
reshape_default: float32[64, 16] = aten.reshape.default(reshape_default_2, [64, 16])
permute_default: float32[64, 16] = aten.permute.default(reshape_default, [0, 1])
div_tensor: float32[64, 16] = aten.div.Tensor(permute_default, rsqrt)
add_tensor: float32[64, 16] = aten.add.Tensor(div_tensor, getitem_1)
sub: float32[64, 16] = aten.sub.Tensor(add_tensor, getitem_1)
mul: float32[64, 16] = aten.mul.Tensor(sub, rsqrt)
cosh: float32[64, 16] = aten.cosh.default(mul)
mul_1: float32[64, 16] = aten.mul.Tensor(tangents_1, cosh)
mul_3: float32[64, 16] = aten.mul.Tensor(mul_1, 16)
sum_1: float32[64, 1] = aten.sum.dim_IntList(mul_1, [1], True)
mul_4: float32[64, 16] = aten.mul.Tensor(mul_1, mul)
sum_2: float32[64, 1] = aten.sum.dim_IntList(mul_4, [1], True)
mul_5: float32[64, 16] = aten.mul.Tensor(mul, sum_2)
sub_2: float32[64, 16] = aten.sub.Tensor(mul_3, sum_1)
sub_3: float32[64, 16] = aten.sub.Tensor(sub_2, mul_5)
div: float32[64, 1] = aten.div.Tensor(rsqrt, 16)
mul_6: float32[64, 16] = aten.mul.Tensor(div, sub_3)
mm_1: float32[16, 16] = aten.mm.default(permute, mul_6)
mm_2: float32[64, 16] = aten.mm.default(mul_6, permute_1)
return [mm_2, mm_1]""",
        )

    def test_rows_that_fill_groups_are_kept_as_they_are(self):
        g = partitioned(layer_norm, *rows(64, 1.0), policy=options("balanced"))
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.mm float32[64, 64] 16384 -> 4224: 8 bits, groups of 64
aten.var_mean[1] float32[64, 1] 256 -> 256: kept: what an operator returns beside its main output (log-sum-exp, state) stays exact
aten.rsqrt float32[64, 1] 256 -> 256: kept: a statistic: small, and its exactness matters""",
        )

    def test_what_something_else_reads_too(self):
        def f(x, w):
            h = x @ w
            return F.layer_norm(h, (16,)).sin().sum() + (h.exp() @ w).sum()

        g = partitioned(f, *rows(16, 0.1), policy=options("balanced"))
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.cos float32[64, 16] 4096 -> 1056: 8 bits, groups of 64
aten.mul float32[64, 16] 4096 -> 1056: 8 bits, groups of 64
aten.var_mean[1] float32[64, 1] 256 -> 256: kept: what an operator returns beside its main output (log-sum-exp, state) stays exact
aten.rsqrt float32[64, 1] 256 -> 256: kept: a statistic: small, and its exactness matters""",
        )

    def test_factors_that_may_be_zero_are_none(self):
        def f(x, w, mask):
            h = x @ w
            return ((h - h.mean(-1, keepdim=True)) * mask).sin()

        given = *rows(16, 1.0), (torch.arange(64) % 2).float()[:, None]
        g = partitioned(f, *given, policy=options("balanced"))
        self.assertExpectedInline(
            g.kept_set, """aten.cos float32[64, 16] 4096 -> 1056: 8 bits, groups of 64"""
        )
        found = gradients(f, *given, policy=options("balanced"))[1:]
        assert max(map(relative, found, gradients(f, *given)[1:])) < 0.05

    def test_what_the_caller_holds_is_no_code(self):
        def f(x, w):
            return F.layer_norm(x @ w, (16,))

        g = partitioned(f, *rows(16, 1.0), policy=options("balanced"))
        self.assertExpectedInline(
            g.kept_set,
            """\
aten.mm float32[64, 16] 4096 -> 1056: 8 bits, groups of 64
aten.var_mean[1] float32[64, 1] 256 -> 256: kept: what an operator returns beside its main output (log-sum-exp, state) stays exact
aten.rsqrt float32[64, 1] 256 -> 256: kept: a statistic: small, and its exactness matters""",
        )

    def test_exact_and_without_codes_nothing_changes(self):
        for policy in ("exact", {"preset": "compact", "rules": {"encode": False}}):
            g = partitioned(layer_norm, *rows(16, 1.0), policy=policy)
            assert g.kept_set.startswith("aten.mm float32[64, 16]")


def test_sizes_that_are_not_known():
    given = rows(16, 1.5)
    (g,) = partitions(layer_norm, *given, policy=options("balanced"), dynamic=True)
    assert any(e.rule == "encode" for e in g.plan.entries)
    f = weighed(layer_norm)
    found = gradients(f, *given, policy=options("balanced"), dynamic=True)[1:]
    assert max(map(relative, found, gradients(f, *given)[1:])) < 0.01


@pytest.mark.parametrize("f", [of_pictures, of_heads])
def test_compiled_by_inductor(f):
    given = pictures(1.0) if f is of_pictures else rows(40, 1.0)
    torch._dynamo.reset()
    compiled = torch.compile(f, backend="fxmem", options=options("balanced"))
    slope = torch.randn_like(f(*given))
    found, wanted = (torch.autograd.grad(g(*given), given, slope) for g in (compiled, f))
    assert max(map(relative, found, wanted)) < 0.01
