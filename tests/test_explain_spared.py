"""What `fxmem.explain` tells of tensors that Inductor keeps and fxmem does not."""

import re

import torch
from expecttest import TestCase
from torch import nn
from torch.nn import functional

import fxmem


class Block(nn.Module):
    """A norm, a layer, an activation, dropout and a layer: one of each way to keep nothing."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        return x + functional.dropout(self.down(functional.gelu(self.up(self.norm(x)))), 0.1)


class Halves(nn.Module):
    """Two couplings, and two again."""

    def __init__(self):
        super().__init__()
        self.f = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4))

    def forward(self, x):
        a, b = x.chunk(2, -1)
        for i in (0, 2):
            a = a + self.f[i](b)
            b = b + self.f[i + 1](a)
        return torch.cat([a, b], -1)


def explained(model, *shape, policy="exact"):
    torch.manual_seed(0)
    model = model()
    x = torch.randn(*shape, requires_grad=True)
    return fxmem.explain(model, x * 1.0, policy=policy)


def lines(report):
    return re.search(r"Inductor keeps them:\n((?:  (?!note).*\n)+)", str(report))[1].rstrip()


class TestSpared(TestCase):
    def test_exact(self):
        # The activation's output and the norm's are recomputed, the mask is eight bytes.
        self.assertExpectedInline(
            lines(explained(Block, 128, 64)),
            """\
  norm  aten.add  float32[128, 64]   32.0 -> 0.0 KiB   exact  recomputed in the backward
        aten.mul  float32[128, 256]  128.0 -> 0.0 KiB  exact  recomputed in the backward
        aten.gt   bool[128, 64]      8.0 -> 0.0 KiB    exact  drawn again from its seed""",
        )

    def test_reversible(self):
        # Whatever the couplings kept is computed a second time; the last states are kept, in
        # float64, listed above this.
        self.assertExpectedInline(
            lines(explained(Halves, 128, 128)),
            """\
  f.*.*  aten.addmm  float32[128, 64]  4 x 32.0 -> 0.0 KiB  exact  recomputed in the backward
         aten.add    float32[128, 64]  3 x 32.0 -> 0.0 KiB  exact  the backward does without it""",
        )


def test_bytes_add_up_to_what_inductor_keeps():
    report = explained(Block, 128, 64)
    (plan,) = report.plans
    spared = sum(site.residual.nbytes for site in plan.spared)
    kept = {entry.residual.name for entry in plan.entries}
    more = sum(e.residual.nbytes for e in plan.entries if e.residual.op.startswith("prims"))
    assert spared > 0
    assert kept.isdisjoint(site.residual.name for site in plan.spared)
    assert spared + plan.before - more == report.baselines["inductor"]


def test_recomputed_from_what_is_encoded_is_not_called_exact():
    (plan,) = explained(Block, 128, 64, policy="compact").plans
    given = {site.action: site.guarantee for site in plan.spared}
    assert given == {"recomputed in the backward": "bounded", "drawn again from its seed": "exact"}


def test_plain_data_and_html_have_them_too():
    report = explained(Block, 128, 64)
    (graph,) = report.to_dict()["graphs"]
    assert [row["kept"] for row in graph["spared"]] == [0] * len(report.plans[0].spared)
    assert "drawn again from its seed" in report._repr_html_()


def test_nothing_is_said_where_nothing_is_spared():
    report = fxmem.explain(nn.Linear(64, 64), torch.randn(8, 64, requires_grad=True) * 1.0)
    assert report.plans[0].spared == () and "not kept" not in str(report)
