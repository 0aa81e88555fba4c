"""Norms of a graph that keep their output: which, in every dialect, and what is said of the rest."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import nop
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import fxmem
from fxmem.measure import kept

from .dialects import DIALECTS, aten, symbolic
from .tools import relative

C = 16


class Block(nn.Module):
    """A pre-norm block: both norms' outputs are kept by linear layers, their inputs by none."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.RMSNorm(C)
        self.up, self.down, self.last = nn.Linear(C, 32), nn.Linear(32, C), nn.Linear(C, C)

    def forward(self, x):
        x = x + self.down(self.up(self.norm1(x * 2)).sin())
        return self.last(self.norm2(x))


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.group = nn.GroupNorm(4, C)
        self.weight, self.bias = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(C))
        self.first, self.last = (nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x):
        x = self.first(self.group(x * 2))
        normed = F.batch_norm(x, None, None, self.weight, self.bias, True)
        return self.last(F.leaky_relu(normed, 0.1))


CASES = {"block": (Block, (6, C)), "images": (Images, (2, C, 7, 7))}


def gradients(run, x, module):
    given = (x, *module.parameters())
    return torch.autograd.grad(run(x).square().sum(), given)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", ["symbolic_trace", "export"])
def test_trains(dialect, case):
    make, size = CASES[case]
    model, x = make(), torch.randn(size).requires_grad_()
    gm = fxmem.transform(DIALECTS[dialect](model, x))
    found = [entry.residual.op for entry in fxmem.report(gm).entries if entry.nbytes == 0]
    assert (
        found == {"block": ["layer_norm", "rms_norm"], "images": ["group_norm", "batch_norm"]}[case]
    )
    assert {e.rule for e in fxmem.report(gm).entries} == {"norm_from_output"}
    module = gm if dialect == "export" else model
    named = dict(module.named_parameters())
    wanted = dict(
        zip(["x", *dict(model.named_parameters())], gradients(model, x, model), strict=True)
    )
    for name, value in zip(["x", *named], gradients(gm, x, module), strict=True):
        assert relative(value, wanted[name]) < 1e-5, name


@pytest.mark.parametrize("case", CASES)
def test_operators_of_make_fx(case):
    """Operators that return statistics too; RMSNorm is made of others, and keeps two tensors."""
    make, size = CASES[case]
    model, x = make(), torch.randn(size).requires_grad_()
    gm = fxmem.transform(aten(model, x))
    found = [e for e in fxmem.report(gm).entries if e.rule == "norm_from_output"]
    ops = {"block": ["layer_norm", "rms_norm"], "images": ["group_norm", "batch_norm"]}[case]
    assert [e.residual.op for e in found] == ops and not any(e.nbytes for e in found)
    # RMSNorm keeps 1 / deviation of 6 rows too.
    second = 2 * x.nbytes + (6 * 4 if case == "block" else 0)
    assert [e.residual.nbytes for e in found] == [x.nbytes, second]
    assert all(e.residual.shape == x.shape for e in found) and "native_" not in gm.code
    for value, wanted in zip(gradients(gm, x, model), gradients(model, x, model), strict=True):
        assert relative(value, wanted) < 1e-5


def test_statistics_that_are_read():
    def f(x, w):
        y, mean, _ = torch.native_layer_norm(x, (C,), None, None, 1e-5)
        return y @ w + mean

    gm = fxmem.transform(aten(f, torch.randn(3, C), torch.randn(C, C)))
    assert [e.why for e in fxmem.report(gm).entries] == ["its mean or deviation is read too"]


class Operators(nn.Module):
    """torch's functions by the names of ATen's operators, and in their order of arguments."""

    def __init__(self):
        super().__init__()
        self.group, self.layer, self.linear = nn.GroupNorm(4, C), nn.LayerNorm(7), nn.Linear(7, 7)

    def forward(self, x):
        affine = (self.group.weight, self.group.bias)
        y = self.linear(torch.native_group_norm(x * 2, *affine, 2, C, 7, 4, 1e-5)[0]) * 2
        affine = (self.layer.weight, self.layer.bias)
        return self.linear(torch.native_layer_norm(y, (7,), *affine, 1e-5)[0])


def test_operators_as_functions_of_torch():
    model, x = Operators(), torch.randn(2, C, 7).requires_grad_()
    gm = fxmem.transform(symbolic(model))
    assert [e.nbytes for e in fxmem.report(gm).entries] == [0, 0] and "native" not in gm.code
    for found, wanted in zip(gradients(gm, x, model), gradients(model, x, model), strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("read", [lambda y: y, lambda y: y[:2], lambda y: y[-2]])
def test_results_that_are_read_together(read):
    gm = torch.fx.symbolic_trace(lambda x: read(torch.native_layer_norm(x, (C,), None, None, 1e-5)))
    found = fxmem.report(fxmem.transform(gm)).entries
    assert [e.why for e in found] == ["its results are read together"]


@pytest.mark.parametrize("inner", [lambda gm, _: gm.forward, aot_autograd(fw_compiler=nop)])
@pytest.mark.parametrize("case", CASES)
def test_trains_inside_another_compiler(case, inner):
    make, size = CASES[case]
    model, x, seen = make(), torch.randn(size).requires_grad_(), []

    def backend(gm, inputs):
        seen.append(fxmem.transform(gm))
        return inner(seen[0], inputs)

    found = gradients(torch.compile(model, backend=backend), x, model)
    assert all(entry.nbytes == 0 for entry in fxmem.report(seen[0]).entries)
    for value, wanted in zip(found, gradients(model, x, model), strict=True):
        assert relative(value, wanted) < 1e-5


def test_less_is_kept():
    model, x = Block(), torch.randn(200, C).requires_grad_()
    gm = fxmem.transform(symbolic(model))
    before, after = kept(lambda: model(x)).nbytes, kept(lambda: gm(x)).nbytes
    # LayerNorm's input, and two of what eager RMSNorm keeps on a CPU.
    assert 2.9 * x.nbytes < before - after < 3.1 * x.nbytes


@torch._functorch.config.patch(enable_autograd_cache=False)  # a graph from it has no report
def test_forbidden_and_asked_for():
    gm = symbolic(Block())
    forbidden = fxmem.transform(gm, {"rules": {"norm_from_output": False}})
    assert not list(fxmem.report(forbidden).entries) and forbidden.code == gm.code
    model = Block()
    torch.compile(model, backend="fxmem", options={"rules": {"norm_from_output": True}})(
        torch.randn(3, C)
    )
    note = "2 x norm: norm_from_output is left out of compiled models"
    assert fxmem.last_report().plans[0].notes[0].startswith(note)


def test_original_is_left_alone():
    gm = symbolic(Block())
    before = gm.code
    assert "fxmem_ops_norms" in fxmem.transform(gm).code and gm.code == before


def refusals(function, *parts):
    module = nn.Module()
    for i, part in enumerate(parts):
        module.add_module(f"m{i}", part)
    graph = torch.fx.Tracer().trace(_bound(module, function))
    gm = torch.fx.GraphModule(module, graph)
    return [
        e.why for e in fxmem.report(fxmem.transform(gm)).entries if e.rule == "norm_from_output"
    ]


def _bound(module, function):
    kind = type("Traced", (nn.Module,), {"forward": lambda self, x: function(self, x)})
    traced = kind()
    for name, child in module.named_children():
        traced.add_module(name, child)
    return traced


def overwritten(m, x):
    y = m.m0(x)
    y.add_(1)
    return m.m1(y)


def test_refusals():
    norm, linear = nn.LayerNorm(C), nn.Linear(C, C)
    parts = (norm, linear)
    assert refusals(lambda m, x: m.m0(x) + 1, *parts) == ["nothing else keeps its output"]
    (why,) = refusals(lambda m, x: m.m1(m.m0(x)) + m.m1(x), *parts)
    assert why == "m1_1 keeps its input too"
    assert refusals(lambda m, x: m.m1(m.m0(x).add_(1)), *parts) == ["nothing else keeps its output"]
    (why,) = refusals(overwritten, *parts)
    assert why == "something is overwritten before m1 reads its output"
    relu = (nn.BatchNorm1d(C), linear)  # whose output does not determine its input
    assert refusals(lambda m, x: m.m1(m.m0(x).relu()), *relu) == ["nothing else keeps its output"]
