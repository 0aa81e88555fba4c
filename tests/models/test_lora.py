"""Fine-tuning with LoRA: frozen layers keep nothing, adapters no copies of what they share."""

import pytest
import torch
from passes.tools import gradients, leaf, partitioned, relative
from torch import nn
from torch.nn import functional as F

import fxmem
import fxmem.nn
from fxmem.backend import fxmem as backend
from fxmem.measure import kept

BATCH, TOKENS, WIDTH, RANK = 2, 16, 32, 4
SMALL = {"min_bytes": 0}


class Adapted(nn.Module):
    """A frozen layer, and beside it a product of two thin ones that are trained."""

    def __init__(self, inputs, outputs, dropout=0.0):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = (
            nn.Linear(*sizes, bias=False) for sizes in ((inputs, RANK), (RANK, outputs))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        found = self.up(self.down(self.dropout(x.to(self.down.weight.dtype))))
        return (self.base(x) + 2 * found).to(x.dtype)


class Block(nn.Module):
    """A frozen pre-norm block; its queries and values are adapted, or all its layers."""

    def __init__(self, target, dropout):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH).requires_grad_(False) for _ in range(2))

        def layer(name, inputs, outputs):
            if target == "all" or name in target:
                return Adapted(inputs, outputs, dropout)
            return nn.Linear(inputs, outputs).requires_grad_(False)

        self.q, self.k, self.v, self.out = (layer(name, WIDTH, WIDTH) for name in "qkvo")
        self.first, self.second = layer("first", WIDTH, 4 * WIDTH), layer("2", 4 * WIDTH, WIDTH)
        self.act = nn.GELU()

    def forward(self, x):
        h = self.norm1(x)
        heads = (f(h).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.second(self.act(self.first(self.norm2(x))))


def model(target="qv", dropout=0.0, dtype=torch.float32):
    torch.manual_seed(0)
    found = Block(target, dropout)
    for parameter in found.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return found


def data(dtype=torch.float32):
    return torch.randn(BATCH, TOKENS, WIDTH, dtype=dtype)


def widths(graph):
    """How many elements a token each kept tensor has, statistics left out."""
    sizes = (torch.Size(e.residual.shape).numel() for e in graph.plan.entries)
    return sorted(size // (BATCH * TOKENS) for size in sizes if size >= BATCH * TOKENS * RANK)


def joined(tensors):
    return torch.cat([t.flatten().double() for t in tensors])


@pytest.mark.parametrize("target", ["qv", "all"])
@pytest.mark.parametrize("preset, bound", [("exact", 1e-6), ("balanced", 0.02), ("compact", 0.3)])
def test_gradients(target, preset, bound):
    adapted, x = model(target), data()
    true, found = gradients(adapted, x), gradients(adapted, x, policy={"preset": preset} | SMALL)
    assert relative(joined(found[1:]), joined(true[1:])) < bound


def test_frozen_layers_keep_nothing():
    g = partitioned(model("qv"), data(), policy=SMALL)
    # x A, what q and v adapt, q, k, v, what attention returns, the second norm's input, and GELU's.
    assert widths(g) == sorted([RANK] * 2 + [WIDTH] * 6 + [4 * WIDTH])
    codes = partitioned(model("qv"), data(), policy=SMALL | {"rules": {"few_bit": {"bits": 3}}})
    assert [site.nbytes for site in codes.plan.sites] == [BATCH * TOKENS * 4 * WIDTH * 3 // 8]


def test_adapting_all_layers_keeps_no_input_more():
    few, every = (widths(partitioned(model(t), data(), policy=SMALL)) for t in ("qv", "all"))
    assert every == sorted([*few, *[RANK] * 4])  # of k, of out and of the MLP's two


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_adapters_keeps_seeds_alone(dtype):
    plain, dropped = (
        partitioned(model("all", p, dtype), data(dtype), policy=SMALL) for p in (0.0, 0.1)
    )
    # It may be less: the cut takes an input of the caller's for no cheaper than what is made of it.
    assert dropped.plan.after - plain.plan.after <= 6 * 8


def test_float32_adapters_of_a_bfloat16_model_keep_no_float32_input():
    g = partitioned(model("all", dtype=torch.bfloat16), data(torch.bfloat16), policy=SMALL)
    wide = [e.residual for e in g.plan.entries if e.residual.dtype == "float32"]
    assert wide and max(torch.Size(r.shape).numel() for r in wide) <= BATCH * TOKENS * RANK


def test_what_is_recomputed_is_what_was_multiplied_with():
    adapted, x = model("all", dtype=torch.bfloat16), data(torch.bfloat16)
    whole = {"min_bytes": 0, "rules": {"remat": False}}
    kept_whole, recomputed = (gradients(adapted, x, policy=p) for p in (whole, SMALL))
    assert relative(joined(recomputed[1:]), joined(kept_whole[1:])) < 1e-6


def test_dropout_is_repeated():
    layers = nn.Sequential(nn.LayerNorm(WIDTH), Adapted(WIDTH, 4 * WIDTH, 0.5)).requires_grad_()
    x = data()

    def trained(**rules):
        """Under Inductor: run eagerly, its random ops take no heed of their seed."""
        torch._dynamo.reset()
        torch.manual_seed(0)
        layers.zero_grad()
        options = {"min_bytes": 0, "rules": rules}
        out = torch.compile(layers, backend=backend, options=options)(x)
        out.square().sum().backward()
        return joined([p.grad for p in layers.parameters()])

    assert relative(trained(), trained(seeds=False)) < 1e-6


def test_a_copy_of_fewer_bytes_is_kept_itself():
    first, weight = leaf(WIDTH, WIDTH), leaf(WIDTH, WIDTH, dtype=torch.bfloat16)

    def shared(x):
        h = x @ first
        return (h.bfloat16() @ weight).float() + h

    (entry,) = partitioned(shared, data(), policy=SMALL).plan.entries
    assert entry.residual.dtype == "bfloat16"


@pytest.mark.parametrize("target, options", [("all", {"keep": "output"}), ("qv", {"bits": 3})])
def test_eager_modules_stand_beside_adapters(target, options):
    adapted, x = model(target), data()
    true, before = gradients(adapted, x), kept(lambda: adapted(x)).nbytes
    fxmem.convert(adapted, {fxmem.nn.is_activation: options})
    size = BATCH * TOKENS * 4 * WIDTH
    saved = before - kept(lambda: adapted(x)).nbytes
    assert saved == 4 * size - size * options.get("bits", 1) // 8
    for a, b in zip(true, gradients(adapted, x), strict=True):
        assert relative(b, a) < (1e-5 if "keep" in options else 0.2)
