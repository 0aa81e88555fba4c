"""Attention under lossy presets: q, k, v and out are encoded, log-sum-exp and random state never."""

import warnings

import pytest
import torch
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxmem.passes.pair.graphs import Pair
from fxmem.passes.registry import RULES
from fxmem.passes.rule import apply, plan
from fxmem.plan import Site
from fxmem.policy import Policy

from .tools import gradients, leaf, partitioned, relative, slope

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 64, 16
ENCODED = {"balanced": 8, "compact": 6}  # bits at most


class Attention(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.out = nn.Linear(HEADS * WIDTH, HEADS * WIDTH)
        self.dropout = dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH)).transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.fixture(params=[SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], ids=["flash", "math"])
def variant(request):
    with sdpa_kernel(request.param), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield request.param


def policy(preset):
    return {"preset": preset, "min_bytes": 1024}


def sizes(entries):
    return sum(e.residual.nbytes for e in entries), sum(e.nbytes for e in entries)


@pytest.mark.parametrize("preset", ENCODED)
def test_on_a_cpu(variant, preset):
    x = leaf(BATCH, TOKENS, HEADS * WIDTH)
    entries = partitioned(Attention(), x, policy=policy(preset)).plan.entries
    floats = [e for e in entries if e.residual.dtype == "float32"]
    encoded = [e for e in floats if isinstance(e, Site) and e.rule == "encode"]
    before, after = sizes(encoded)
    # q, k and v, out, and of math the probabilities; a scale a group besides the bits.
    is_math = variant is SDPBackend.MATH
    operands = 4 * BATCH * HEADS * TOKENS * WIDTH * 4
    probabilities = BATCH * HEADS * TOKENS**2 * 4 if is_math else 0
    assert before == operands + probabilities
    assert after <= before * (ENCODED[preset] + 1) / 32
    exact = [e for e in floats if e not in encoded]
    assert all(e.nbytes == e.residual.nbytes for e in exact)
    rows = BATCH * HEADS * TOKENS * 4
    assert {e.residual.nbytes for e in exact} == (set() if is_math else {rows})


@pytest.mark.parametrize(("preset", "bound"), [("exact", 1e-5), ("balanced", 0.02)])
def test_gradient(variant, preset, bound):
    model, x = Attention(), leaf(BATCH, TOKENS, HEADS * WIDTH)
    exact = gradients(model, x)
    for found, wanted in zip(gradients(model, x, policy=policy(preset)), exact, strict=True):
        assert relative(found, wanted) < bound


def test_dropout_is_kept_as_a_seed():
    """Of what dropout draws over all pairs of tokens, nothing is kept: its seed draws it again."""
    x = leaf(BATCH, TOKENS, HEADS * WIDTH)
    with sdpa_kernel(SDPBackend.MATH):
        plain = partitioned(Attention(), x, policy=policy("exact")).plan
        dropped = partitioned(Attention(0.1), x, policy=policy("exact")).plan
    seeds = [e for e in dropped.entries if "seed" in e.residual.op]
    assert [e.residual.nbytes for e in seeds] == [8]
    assert dropped.after == plain.after + 8


def test_dropout_draws_again_what_it_drew():
    """The output is linear in v: dL/dv @ v is dL/dy @ y if, and only if, both drop the same.

    Of all compilers Inductor alone draws by a seed.
    """

    def attend(x, v):
        return F.scaled_dot_product_attention(x, x, v, dropout_p=0.5)

    x, v = leaf(BATCH, HEADS, TOKENS, WIDTH), leaf(BATCH, HEADS, TOKENS, WIDTH)
    with sdpa_kernel(SDPBackend.MATH):
        y = torch.compile(attend, backend="fxmem", options=policy("exact"))(x, v)
    (found,) = torch.autograd.grad(y, v, slope(y))
    backward, forward = (found * v).sum().item(), (slope(y) * y).sum().item()
    assert abs(backward - forward) < 0.01 * y.norm().item()
    again = torch.autograd.grad(attend(x, v), v, slope(y))[0]
    assert abs((again * v).sum().item() - forward) > 0.05 * y.norm().item()


def masked(mask):
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)


KINDS = {
    "bool mask": masked(torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()),
    "float mask": masked(torch.linspace(-2, 0, TOKENS).expand(TOKENS, TOKENS)),
    "grouped queries": grouped,
}


@pytest.mark.parametrize("preset", ["exact", *ENCODED])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_grouped_queries(variant, kind, preset):
    """Statistics stay exact there too, and gradients are as near as those of plain attention."""
    x, w = leaf(BATCH, TOKENS, HEADS * WIDTH), leaf(HEADS * WIDTH, 3 * HEADS * WIDTH)

    def model(x, w):
        qkv = (x @ w * 0.1).unflatten(-1, (3, HEADS, WIDTH)).transpose(1, 3).unbind(2)
        return KINDS[kind](*qkv).sin()

    g = partitioned(model, x, w, policy=policy(preset))
    rows = {BATCH * HEADS * TOKENS * 4, BATCH * HEADS * TOKENS * 2 * 4}
    exact = [e for e in g.plan.refusals if e.residual.dtype == "float32" and e.residual.nbytes]
    encoded = [e for e in g.plan.sites if e.rule == "encode"]
    if preset in ENCODED:
        assert encoded and {e.residual.nbytes for e in exact} <= rows
    else:
        assert not encoded
    bound = {"exact": 1e-5, "balanced": 0.03, "compact": 0.3}[preset]
    found, wanted = gradients(model, x, w, policy=policy(preset)), gradients(model, x, w)
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < bound


aten = torch.ops.aten
HALF = [True, True, True, False]


def _efficient(q, k, v):
    return aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.1, True)


def _efficient_backward(g, q, k, v, y, lse, seed, offset):
    backward = aten._scaled_dot_product_efficient_attention_backward
    return backward(g, q, k, v, None, y, lse, seed, offset, 0.1, HALF, True)[:3]


def _flash(q, k, v):
    y, lse, _, _, _, _, rng, unused, _ = aten._scaled_dot_product_flash_attention(
        q, k, v, 0.1, True, False
    )
    return y, lse, rng, unused


def _flash_backward(g, q, k, v, y, lse, rng, unused):
    backward = aten._scaled_dot_product_flash_attention_backward
    given = (None, None, TOKENS, TOKENS, 0.1, True, rng, unused)
    return backward(g, q, k, v, y, lse, *given)


def _cudnn(q, k, v):
    found = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.1, True, False)
    return found[0], found[1], found[6], found[7]


def _cudnn_backward(g, q, k, v, y, lse, seed, offset):
    backward = aten._scaled_dot_product_cudnn_attention_backward
    given = (None, None, None, TOKENS, TOKENS, 0.1, True)
    return backward(g, q, k, v, y, lse, seed, offset, *given)


FUSED = {
    "efficient": (_efficient, _efficient_backward),
    "flash": (_flash, _flash_backward),
    "cudnn": (_cudnn, _cudnn_backward),
}


def cuda_pair(forward, backward):
    """The pair that a cut makes of fused attention on a GPU, which need not be there."""

    def whole(x, w):
        q, k, v = (x @ w).view(BATCH, TOKENS, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind()
        y, *rest = forward(q, k, v)
        return y.sin(), q, k, v, y, *rest

    def back(q, k, v, y, lse, seed, offset, tangents_1):
        return backward(tangents_1 * y.cos(), q, k, v, y, lse, seed, offset)

    with FakeTensorMode():
        x = torch.empty(BATCH * TOKENS, 64, dtype=torch.bfloat16, device="cuda")
        w = torch.empty(64, 3 * HEADS * WIDTH, dtype=torch.bfloat16, device="cuda")
        first = make_fx(whole)(x, w)
        kept = [node.meta["val"] for node in first.graph.output_node().args[0][1:]]
        second = make_fx(back)(*kept, kept[0])
    names = [node.name for node in first.graph.output_node().args[0][1:]]
    for node, name in zip(
        second.graph.find_nodes(op="placeholder"), [*names, "tangents_1"], strict=True
    ):
        node.target = name
        node._rename(name)
    return Pair(first, second, 1, frozenset([first.graph.find_nodes(op="placeholder")[1].name]))


@pytest.mark.parametrize("preset", ENCODED)
@pytest.mark.parametrize("kind", FUSED)
def test_on_a_gpu(kind, preset):
    pair = cuda_pair(*FUSED[kind])
    found, decisions = plan(pair, Policy.of(policy(preset)), RULES)
    encoded = {e.residual.op for e in found.sites}
    (out,) = (op for op in encoded if "attention" in op)
    assert out.endswith("_attention[0]") and encoded == {out, "aten.mm"}
    assert {e.residual.op.rpartition("[")[0] for e in found.refusals} == {out.rpartition("[")[0]}
    assert all(e.nbytes == e.residual.nbytes for e in found.refusals)
    apply(pair, decisions)
    pair.finish()
    assert isinstance(pair.backward, fx.GraphModule) and pair.kept() < found.before / 1.5
