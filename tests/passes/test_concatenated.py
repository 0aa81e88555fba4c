"""Concatenations are recomputed from their parts, and the cut is tried two ways."""

import pytest
import torch
from expecttest import TestCase
from torch import nn
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned

EXACT = "kept: preset 'exact' keeps it exactly"


class Dense(nn.Module):
    """Each layer reads what all before it have made (Huang et al. 2017)."""

    def __init__(self, layers):
        super().__init__()
        widths = [8 + 4 * i for i in range(layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.layers = nn.ModuleList(nn.Conv2d(w, 4, 3, padding=1) for w in widths)

    def forward(self, x):
        made = [x.sin()]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            made.append(layer(norm(torch.cat(made, 1)).relu()))
        return torch.cat(made, 1)


def test_a_dense_block_keeps_what_its_layers_make():
    def kept(layers):
        torch._dynamo.reset()
        return partitioned(Dense(layers), leaf(2, 8, 6, 6)).plan.after

    made = 2 * 4 * 6 * 6 * 4
    steps = [kept(layers + 1) - kept(layers) for layers in (3, 4, 5)]
    assert all(made <= step <= 1.2 * made for step in steps)  # and statistics


def test_gradients():
    torch.manual_seed(0)
    model, x = Dense(4), leaf(2, 8, 6, 6)
    for found, exact in zip(gradients(model, x, policy="exact"), gradients(model, x), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


class TestKeptSets(TestCase):
    def test_hit(self):
        def f(x, y, w):
            y = y.exp()
            return torch.cat([x.sin(), y], 1) @ w + y.cos().sum()

        g = partitioned(f, leaf(8, 4), leaf(8, 4), leaf(8, 4))
        self.assertExpectedInline(g.kept_set, """""")

    def test_rows_of_a_table(self):
        def f(table, w, ids):
            return F.embedding(ids, table) @ w

        g = partitioned(f, leaf(3, 4), leaf(4, 4), torch.arange(8) % 3)
        self.assertExpectedInline(g.kept_set, """""")

    def test_parts_that_nothing_else_reads(self):
        def f(x, y, w, v):
            return torch.cat([x @ v, y @ v], 1) @ w

        g = partitioned(f, leaf(8, 4), leaf(8, 4), leaf(8, 4), leaf(4, 4))
        self.assertExpectedInline(
            g.kept_set,
            """aten.cat float32[8, 8] 256 -> 256: kept: preset 'exact' keeps it exactly""",
        )

    def test_parts_of_something_larger(self):
        def f(x, w, v):
            h = x @ v
            return torch.cat([h[:, :4], h[:, 60:]], 1) @ w + h.sum()

        g = partitioned(f, leaf(8, 4), leaf(8, 4), leaf(4, 64))
        self.assertExpectedInline(
            g.kept_set,
            """aten.cat float32[8, 8] 256 -> 256: kept: preset 'exact' keeps it exactly""",
        )

    def test_an_output(self):
        def f(x, y, w):
            y = y @ w
            both = torch.cat([x @ w, y], 1)
            return both, both.sin() + y.sum()

        g = partitioned(f, leaf(8, 4), leaf(8, 4), leaf(4, 4))
        self.assertExpectedInline(
            g.kept_set,
            """aten.cat float32[8, 8] 256 -> 256: kept: preset 'exact' keeps it exactly""",
        )

    def test_enlarged_pictures_are_made_again(self):
        def f(x, w):
            return F.conv2d(F.interpolate(x.sin(), scale_factor=2), w)

        g = partitioned(f, leaf(2, 4, 4, 4), leaf(4, 4, 3, 3))
        self.assertExpectedInline(g.kept_set, """""")

    def test_rules_forbid_it(self):
        def f(x, y, w):
            y = y.exp()
            return torch.cat([x.sin(), y], 1) @ w + y.cos().sum()

        forbidden = {"rules": {"remat": False}}
        g = partitioned(f, leaf(8, 4), leaf(8, 4), leaf(8, 4), policy=forbidden)
        self.assertExpectedInline(
            g.kept_set,
            """aten.cat float32[8, 8] 256 -> 256: kept: preset 'exact' keeps it exactly""",
        )


def rotated(x, cos, sin):
    return x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin


def test_rotary_embeddings_are_made_again_in_every_layer():
    """All read one pair of angles, the last of them long after the first."""

    def heads(x, w, cos, sin):
        x = (x @ w).view(2, 64, 2, 8)
        return rotated(F.rms_norm(x, [8]).transpose(1, 2), cos, sin)

    def f(x, cos, sin, *ws):
        for w in ws:
            q, k = (heads(x, half, cos, sin) for half in w.chunk(2, -1))
            x = x + F.scaled_dot_product_attention(q, k, q).transpose(1, 2).flatten(2)
        return x

    def kept(layers):
        torch._dynamo.reset()
        angles, ws = torch.randn(64, 8), [leaf(16, 32) for _ in range(layers)]
        return partitioned(f, leaf(2, 64, 16), angles.cos(), angles.sin(), *ws).plan.after

    assert kept(4) == 2 * kept(2)


COPIED = {
    "reversed": lambda h: h.flip(0),
    "repeated": lambda h: h.repeat(2, 1),
    "with a row replaced": lambda h: h.select_scatter(torch.zeros(16), 0, 3),
    "windows": lambda h: h.unfold(0, 4, 2).reshape(-1, 16),
    "circularly padded": lambda h: F.pad(h.view(8, 4, 4, 4), (4,) * 4, mode="circular").view(
        -1, 16
    ),
    "rolled": lambda h: h.roll(3, 0),
}


@pytest.mark.parametrize("copy", COPIED.values(), ids=COPIED)
def test_a_copy_is_made_again_of_what_is_kept_anyway(copy):
    def f(x, w):
        h = x @ w
        return (h @ w).sum() + (copy(h) @ w).sum()

    given = leaf(32, 16), leaf(16, 16)
    assert partitioned(f, *given).kept_set == f"aten.mm float32[32, 16] 2048 -> 2048: {EXACT}"
    for a, b in zip(gradients(f, *given, policy={}), gradients(f, *given), strict=True):
        torch.testing.assert_close(a, b)


def rows_of(table, places):
    return table[places].sin()


INTEGERS = {
    "remainder": lambda x, w, i: (x @ w).index_add(0, i[:, 0] % 16, x) @ w,
    "shifted": lambda x, w, i: rows_of(x @ w, (i[:, 1] + 1) % 32),
    "bags of columns": lambda x, w, i: F.embedding_bag(i[:, 1:], x @ w, mode="sum"),
    "one hot": lambda x, w, i: F.one_hot(i[:, 0], 32) * (x @ w).sum(),
}


@pytest.mark.parametrize("f", INTEGERS.values(), ids=INTEGERS)
def test_whole_numbers_are_made_again_of_the_inputs(f):
    given = leaf(32, 16), leaf(16, 16), torch.arange(96).view(32, 3) % 32
    g = partitioned(f, *given)
    made = [e for e in g.plan.entries if e.residual.dtype == "int64" and "bag" not in e.residual.op]
    assert not made
    for a, b in zip(gradients(f, *given, policy={}), gradients(f, *given), strict=True):
        torch.testing.assert_close(a, b)


def test_whole_numbers_of_an_input_that_is_overwritten_are_kept():
    def f(x, w, i):
        places = (i + 1) % 32
        y = rows_of(x @ w, places)
        i.add_(1)
        return y

    x, w = leaf(32, 16), leaf(16, 16)
    found, wanted = (gradients(f, x, w, torch.arange(32), policy=p) for p in ({}, "eager"))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
