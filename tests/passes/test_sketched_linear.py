"""fxmem.transform: linear layers of a graph that is run as it is keep sketches."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import fxmem
from fxmem.measure import kept


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.out = nn.Parameter(torch.randn(4, 16) / 4)

    def forward(self, x):
        x = self.norm(x)
        return F.linear(torch.tanh(self.q(x) + self.k(x)).abs(), self.out)


def asked(**options):
    return {"min_bytes": 0, "rules": {"sketch": {"ratio": 0.25, **options}}}


def traced(dialect, model, x):
    if dialect == "symbolic_trace":
        return fx.symbolic_trace(model)
    return torch.export.export(model, (x,)).module()


@pytest.mark.parametrize("dialect", ["symbolic_trace", "export"])
def test_layers_keep_sketches_and_compute_the_same(dialect):
    x = torch.randn(64, 16)
    gm = traced(dialect, Block(), x)
    new = fxmem.transform(gm, asked(kind="crs"))
    report = fxmem.report(new)
    sites = [entry for entry in report.entries if entry.rule == "sketch"]
    assert [site.action for site in sites] == ["sketched: crs, 25% of its rows"] * 3
    assert report.guarantee == "unbiased" and torch.equal(new(x), gm(x))
    found, plain = (kept(lambda g=g: g(x)).nbytes for g in (new, gm))
    # Two inputs of 64 x 16, of which a quarter is left; and the seeds.
    assert plain - found == 2 * 48 * 16 * 4 - 2 * 8


def test_what_dynamo_traces_is_rewritten_as_well():
    reports = []

    def backend(gm, inputs):
        new = fxmem.transform(gm, asked())
        reports.append(fxmem.report(new))
        return new.forward

    model, x = Block(), torch.randn(64, 16)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model.out.grad.isfinite().all()
    sites = [entry for entry in reports[0].entries if entry.rule == "sketch"]
    assert [site.nbytes for site in sites] == [16 * 16 * 4, 0, 16 * 16 * 4]


def test_an_input_that_a_neighbour_keeps_is_left():
    class Kept(nn.Linear):
        def forward(self, x):
            x = torch.tanh(x)
            return super().forward(x) * x

    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(16, 16), Kept(16, 16)))
    report = fxmem.report(fxmem.transform(gm, asked()))
    assert [entry.action for entry in report.entries if entry.rule == "sketch"][1:] == [
        "kept: mul keeps its input too"
    ]


def test_it_is_done_only_where_it_is_asked_for():
    gm = fx.symbolic_trace(Block())
    for policy in (None, {"rules": {"sketch": False}}, asked(modules="nothing")):
        report = fxmem.report(fxmem.transform(gm, policy))
        assert "sketch" not in [entry.rule for entry in report.entries]
    report = fxmem.report(fxmem.transform(gm, {"rules": {"sketch": {"modules": {"q": 0.5}}}}))
    assert [entry.rule for entry in report.entries].count("sketch") == 1


def test_where_there_is_nothing_to_sketch_the_report_says_so():
    gm = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.GELU()))
    report = fxmem.report(fxmem.transform(gm, asked()))
    assert "sketch: no linear layer that it was asked for is trained here" in str(report)
