"""What crosses from forward to backward: the kept sets of three blocks under three presets."""

import torch
from expecttest import TestCase
from torch import nn
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned

SMALL = {"min_bytes": 4096}
EIGHT = {"preset": "balanced", "bits": 8, "group": 64, **SMALL}
FOUR = {"preset": "compact", "bits": 4, "group": 64, **SMALL}


def mlp():
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, d=64, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out, self.mlp = nn.Linear(d, 3 * d), nn.Linear(d, d), mlp()

    def forward(self, x):
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))


def conv():
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())


class TestKeptSets(TestCase):
    def test_mlp(self):
        x = leaf(64, 64)
        # One residual, the input of GELU: its output is recomputed.
        self.assertExpectedInline(
            partitioned(mlp(), x, policy=SMALL).kept_set,
            """aten.addmm float32[64, 256] 65536 -> 65536: kept: preset 'exact' keeps it exactly""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(mlp(), x, policy=EIGHT).kept_set,
            """aten.addmm float32[64, 256] 65536 -> 16896: 8 bits, groups of 64""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(mlp(), x, policy=FOUR).kept_set,
            """aten.addmm float32[64, 256] 65536 -> 9216: 4 bits, groups of 64; few_bit: the backward reads more of it than its derivative: a code serves one""",
        )

    def test_mlp_without_remat(self):
        policy = {**SMALL, "rules": {"remat": False}}
        # Inductor's own cut keeps both sides of GELU.
        self.assertExpectedInline(
            partitioned(mlp(), leaf(64, 64), policy=policy).kept_set,
            """\
aten.addmm float32[64, 256] 65536 -> 65536: kept: preset 'exact' keeps it exactly
aten.mul float32[64, 256] 65536 -> 65536: kept: preset 'exact' keeps it exactly""",
        )

    def test_block(self):
        x = leaf(2, 32, 64)
        # q, k and v are one storage; log-sum-exp and rstd stay exact.
        self.assertExpectedInline(
            partitioned(Block(), x, policy=SMALL).kept_set,
            """\
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: preset 'exact' keeps it exactly
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: preset 'exact' keeps it exactly
aten.addmm float32[64, 192] 49152 -> 49152: kept: preset 'exact' keeps it exactly
aten._scaled_dot_product_flash_attention_for_cpu[0] float32[2, 4, 32, 16] 16384 -> 16384: kept: preset 'exact' keeps it exactly
aten._scaled_dot_product_flash_attention_for_cpu[1] float32[2, 4, 32] 1024 -> 1024: kept: preset 'exact' keeps it exactly
aten.addmm float32[64, 64] 16384 -> 16384: kept: preset 'exact' keeps it exactly
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: preset 'exact' keeps it exactly
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: preset 'exact' keeps it exactly
aten.addmm float32[64, 256] 65536 -> 65536: kept: preset 'exact' keeps it exactly""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(Block(), x, policy=EIGHT).kept_set,
            """\
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.addmm float32[64, 192] 49152 -> 12672: 8 bits, groups of 64
aten._scaled_dot_product_flash_attention_for_cpu[0] float32[2, 4, 32, 16] 16384 -> 4224: 8 bits, groups of 64
aten._scaled_dot_product_flash_attention_for_cpu[1] float32[2, 4, 32] 1024 -> 1024: kept: smaller than min_bytes=4096
aten.addmm float32[64, 64] 16384 -> 4224: 8 bits, groups of 64
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.addmm float32[64, 256] 65536 -> 16896: 8 bits, groups of 64""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(Block(), x, policy=FOUR).kept_set,
            """\
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.addmm float32[64, 192] 49152 -> 6912: 4 bits, groups of 64
aten._scaled_dot_product_flash_attention_for_cpu[0] float32[2, 4, 32, 16] 16384 -> 2304: 4 bits, groups of 64
aten._scaled_dot_product_flash_attention_for_cpu[1] float32[2, 4, 32] 1024 -> 1024: kept: smaller than min_bytes=4096
aten.addmm float32[64, 64] 16384 -> 2304: 4 bits, groups of 64
aten.var_mean[1] float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.rsqrt float32[2, 32, 1] 256 -> 256: kept: smaller than min_bytes=4096
aten.addmm float32[64, 256] 65536 -> 9216: 4 bits, groups of 64; few_bit: the backward reads more of it than its derivative: a code serves one""",
        )

    def test_conv(self):
        x = leaf(2, 8, 16, 16)
        # The input of the norm and two small statistics; encoded, ReLU's mask comes beside it.
        self.assertExpectedInline(
            partitioned(conv(), x, policy=SMALL).kept_set,
            """\
aten.convolution float32[2, 16, 16, 16] 32768 -> 32768: kept: preset 'exact' keeps it exactly
aten.var_mean[1] float32[1, 16, 1, 1] 64 -> 64: kept: preset 'exact' keeps it exactly
aten.rsqrt float32[1, 16, 1, 1] 64 -> 64: kept: preset 'exact' keeps it exactly""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(conv(), x, policy=EIGHT).kept_set,
            """\
aten.le bool[2, 16, 16, 16] 8192 -> 1024: 1 bit an element
aten.convolution float32[2, 16, 16, 16] 32768 -> 8448: 8 bits, groups of 64
aten.var_mean[1] float32[1, 16, 1, 1] 64 -> 64: kept: smaller than min_bytes=4096
aten.rsqrt float32[1, 16, 1, 1] 64 -> 64: kept: smaller than min_bytes=4096""",
        )
        torch._dynamo.reset()
        self.assertExpectedInline(
            partitioned(conv(), x, policy=FOUR).kept_set,
            """\
aten.le bool[2, 16, 16, 16] 8192 -> 1024: 1 bit an element
aten.convolution float32[2, 16, 16, 16] 32768 -> 4608: 4 bits, groups of 64
aten.var_mean[1] float32[1, 16, 1, 1] 64 -> 64: kept: smaller than min_bytes=4096
aten.rsqrt float32[1, 16, 1, 1] 64 -> 64: kept: smaller than min_bytes=4096""",
        )


def test_exact_gradients_are_those_of_the_plain_cut():
    # Recomputing in float32 what was kept changes no bit, run eagerly op by op.
    for model, x in ((mlp(), leaf(64, 64)), (Block(), leaf(2, 32, 64))):
        plain = gradients(model, x, policy={"rules": {"remat": False}})
        assert all(map(torch.equal, gradients(model, x, policy="exact"), plain))


def test_batch_norm_counts_once():
    def trained(policy):
        torch.manual_seed(0)
        model = conv()
        gradients(model, leaf(2, 8, 16, 16), policy=policy)
        return model[1].state_dict()

    eager, found = trained("eager"), trained("exact")
    # Inductor's decomposition sums the variance in another order: a few units in the last place.
    assert all(torch.allclose(found[name], eager[name], rtol=1e-6, atol=1e-7) for name in eager)
    assert found["num_batches_tracked"] == 1


def test_budget_recomputes_more():
    half = partitioned(nn.Sequential(mlp(), mlp()), leaf(64, 64), policy={"budget": 0.3})
    torch._dynamo.reset()
    whole = partitioned(nn.Sequential(mlp(), mlp()), leaf(64, 64))
    assert half.plan.after < whole.plan.after
    assert half.plan.notes == ()


def test_budget_that_would_redraw_dropout_is_refused():
    model = nn.Sequential(nn.Linear(64, 256), nn.Dropout(0.1), nn.GELU(), nn.Linear(256, 64))
    g = partitioned(model, leaf(64, 64), policy={"budget": 0.01})
    if g.plan.notes:  # else the cut kept the seeds by itself, which is as good
        (note,) = g.plan.notes
        assert note.startswith("budget 0.01 refused: it would draw inductor_seeds")
    assert g.backward.ops["prims.inductor_seeds"] == 0
