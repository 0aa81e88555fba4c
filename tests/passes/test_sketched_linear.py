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


@pytest.mark.parametrize("spelling", ["Conv1D", "decomposed"])
def test_addmm_is_a_linear_layer(spelling):
    """As transformers' Conv1D is written, and as linear decomposes."""
    weight = nn.Parameter(torch.randn(16, 8) if spelling == "Conv1D" else torch.randn(8, 16))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = weight, nn.Parameter(torch.randn(8))

        def forward(self, x):
            rows = x.view(-1, 16)
            turned = self.weight if spelling == "Conv1D" else self.weight.t()
            return torch.addmm(self.bias, rows, turned).view(4, 16, 8)

    model, x = Layer(), torch.randn(4, 16, 16)
    gm = torch.export.export(model, (x,)).module()
    new = fxmem.transform(gm, asked())
    (site,) = fxmem.report(new).entries
    assert site.rule == "sketch" and "linear_randomized" in new.code and "addmm" not in new.code
    assert torch.allclose(new(x), model(x), atol=1e-6)
    found = [
        torch.stack(draws).mean(0)
        for draws in zip(*(steps(new, x) for _ in range(400)), strict=True)
    ]
    for mean, exact in zip(found, steps(gm, x), strict=True):
        assert mean.shape == exact.shape and (mean - exact).norm() < 0.2 * exact.norm()


def steps(gm, x):
    parameters = dict(gm.named_parameters())
    return torch.autograd.grad(gm(x).square().sum(), parameters.values())


@pytest.mark.parametrize("given", ["matrix", "scaled"])
def test_other_sums_of_a_product_are_left(given):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 8))
            self.bias = nn.Parameter(torch.randn(64, 8) if given == "matrix" else torch.randn(8))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight, alpha=2 if given == "scaled" else 1)

    gm = torch.export.export(Layer(), (torch.randn(64, 16),)).module()
    assert not list(fxmem.report(fxmem.transform(gm, asked())).entries)
