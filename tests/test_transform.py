"""`fxmem.transform` and `fxmem.report`: graphs of every dialect train, in eager and compiled."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functorch.compile import nop
from passes.blocks import EXACT, Block, errors, gradients, sample
from passes.dialects import DIALECTS, aten, exported, symbolic
from passes.tools import relative
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.compile_fx import compile_fx

import fxmem
from fxmem import PolicyError
from fxmem.activations.store import levels
from fxmem.measure import kept
from fxmem.passes.graph import stable_text

COMPILERS = {
    "eager": lambda gm: gm,
    "aot_eager": lambda gm: torch.compile(gm, backend="aot_eager"),
    "inductor": lambda gm: torch.compile(gm),
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("dialect", ["symbolic_trace", "export", "make_fx"])
def test_trains(dialect, compiler):
    model, x = Block(), sample()
    gm = fxmem.transform(DIALECTS[dialect](model, x))
    rules = sorted(entry.rule for entry in fxmem.report(gm).entries)
    assert rules == ["from_output", "from_output", "gated"]
    parameters = gm if dialect == "export" else model  # export makes Parameters of its own
    found = gradients(COMPILERS[compiler](gm), parameters, x)
    named = dict(zip(["y", "x", *dict(parameters.named_parameters())], found, strict=True))
    exact = gradients(model, model, x)
    wanted = dict(zip(["y", "x", *dict(model.named_parameters())], exact, strict=True))
    assert named.keys() == wanted.keys()
    for name, value in named.items():
        assert relative(value, wanted[name]) < EXACT, name


INNER = {
    "eager": lambda gm, inputs: gm.forward,
    "AOTAutograd": aot_autograd(fw_compiler=nop),
    "inductor": compile_fx,
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("dynamic", [False, True])
def test_trains_inside_another_compiler(inner, dynamic):
    def other(gm, inputs):
        gm = fxmem.transform(gm)
        seen.append(fxmem.report(gm))
        return INNER[inner](gm, inputs)

    model, x, seen = Block(), sample(), []
    compiled = torch.compile(model, backend=other, fullgraph=True, dynamic=dynamic)
    for size in (64, 48):
        x = sample()[:size].detach().requires_grad_()
        found = gradients(compiled, model, x)
        assert max(errors(found, gradients(model, model, x))) < EXACT
    assert len(seen) == 1 if dynamic else len(seen) > 1
    assert [entry.rule for entry in seen[0].entries] == ["from_output", "gated", "from_output"]


QUANTIZED = {"quantized_gradient": {"bits": 3}}


class Quantized(torch.autograd.Function):
    """SiLU with the slope that a table's codes stand for."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx, grad):
        table = levels("silu", 3)
        codes = torch.bucketize(ctx.saved_tensors[0].double(), torch.from_numpy(table.borders))
        return grad * torch.from_numpy(table.levels)[codes].to(grad.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_quantized_gradient_is_what_its_table_says(compiler, dtype):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 4)).to(dtype),
        sample(dtype),
    )
    rules = {**QUANTIZED, "from_output": False}
    gm = fxmem.transform(symbolic(model), {"rules": rules})
    found = gradients(COMPILERS[compiler](gm), gm, x)
    exact = gradients(lambda x: model[2](Quantized.apply(model[0](x))), model, x)
    # Rounded in another order; the gradient of the last bias is a sum that nearly cancels.
    assert max(errors(found, exact)) < max(1e-5, 2 * torch.finfo(dtype).eps)


def test_unbiased_codes_are_drawn_anew_and_are_right_on_average():
    model, x = nn.GELU(), sample()
    drawn = {"quantized_gradient": {"bits": 2, "unbiased": True}, "from_output": False}
    gm = fxmem.transform(symbolic(nn.Sequential(model)), {"rules": drawn})
    exact = gradients(model, model, x)[1]
    torch.manual_seed(0)
    runs = torch.stack([gradients(gm, gm, x)[1] for _ in range(400)])
    torch.manual_seed(0)
    assert torch.equal(gradients(gm, gm, x)[1], runs[0])
    assert not torch.equal(runs[0], runs[1])
    # Between levels a gap apart codes spread by at most half of it, and by a twentieth of that in
    # the mean of 400; nearest levels would be off by up to half a gap for good.
    gap = np.diff(levels("gelu", 2, unbiased=True).levels).max()
    assert (runs.mean(0) - exact).abs().max() < 5 * gap / 2 / 20


def test_half_precision_errs_no_more_than_it_does_anyway():
    model, x = Block(), sample()
    truth = gradients(model.double(), model, x.detach().double().requires_grad_())
    half, narrow = Block().bfloat16(), sample(torch.bfloat16)
    plain = errors(gradients(half, half, narrow), truth)
    found = errors(gradients(fxmem.transform(symbolic(half)), half, narrow), truth)
    assert all(a < 2 * b for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("rules", [{}, QUANTIZED, {"gated": False}], ids=["exact", "3 bits", "y"])
def test_the_report_says_what_eager_saves(rules):
    model, x = Block(), sample()
    gm = exported(model, x)
    new = fxmem.transform(gm, {"rules": rules})
    report = fxmem.report(new)
    saved = kept(lambda: gm(x)).nbytes - kept(lambda: new(x)).nbytes
    assert report.before - report.kept > 32 * 1024
    # Eager keeps numbers, too, as tensors of one element.
    assert saved - (report.before - report.kept) in range(0, 64)


@pytest.mark.parametrize("dialect", ["symbolic_trace", "export", "make_fx"])
def test_the_argument_is_left_as_it_is(dialect):
    gm = DIALECTS[dialect](Block(), sample())
    text, state, meta = stable_text(gm.graph), gm.state_dict(), dict(gm.meta)
    new = fxmem.transform(gm)
    assert stable_text(gm.graph) == text != stable_text(new.graph)
    assert gm.meta == meta
    assert new.state_dict().keys() == state.keys()
    assert all(a is b for a, b in zip(gm.parameters(), new.parameters(), strict=True))


class Nesting(fx.Tracer):
    """Calls graphs instead of tracing through them."""

    def is_leaf_module(self, module, path):
        return isinstance(module, fx.GraphModule) or super().is_leaf_module(module, path)


def test_nested_graphs():
    inner = symbolic(nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)))
    model = nn.Sequential(inner, nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 16))
    outer = fx.GraphModule(model, Nesting().trace(model))
    new = fxmem.transform(outer)
    assert [[e.residual.op for e in plan.entries] for plan in fxmem.report(new).plans] == [
        ["silu"],
        ["gelu"],
    ]
    assert "from_output" in new.get_submodule("0").code
    assert "from_output" not in inner.code
    x = sample()
    assert max(errors(gradients(new, new, x), gradients(outer, outer, x))) < EXACT


class Normed(nn.Module):
    """Every norm with a layer behind it, and a loss."""

    def __init__(self):
        super().__init__()
        norms = (nn.LayerNorm(16), nn.RMSNorm(16), nn.GroupNorm(4, 16), nn.BatchNorm1d(16))
        self.layers = nn.Sequential(*(m for n in norms for m in (n, nn.Linear(16, 16))))

    def forward(self, x, labels):
        return F.cross_entropy(self.layers(x), labels)


@pytest.mark.parametrize(
    "rules",
    [
        {"norm_from_output": True},
        {"sketch": {"ratio": 0.25, "force": True}},
        {"chunked_loss": True},
    ],
)
def test_on_the_meta_device(rules):
    """There are no numbers to choose by, and no autocast."""
    model = Normed().to("meta")
    inputs = torch.empty(64, 16, device="meta"), torch.empty(64, dtype=torch.int64, device="meta")
    gm = fxmem.transform(exported(model, *inputs), {"rules": rules, "min_bytes": 0})
    assert rules.keys() <= {e.rule for e in fxmem.report(gm).entries if not hasattr(e, "why")}
    gm(*inputs).backward()
    assert all(p.grad.is_meta for p in gm.parameters())


def test_readable():
    code = fxmem.transform(symbolic(Block())).print_readable(print_output=False)
    assert code.count("torch.ops.fxmem.from_output.default(") == 2
    call = "torch.ops.fxmem.gated_linear.default(gate, value, out_weight, out_bias, 'silu', [])"
    assert code.count(call) == 1


def test_metadata_is_kept():
    gm = fxmem.transform(exported(Block(), sample()))
    (node,) = gm.graph.find_nodes(op="call_function", target=torch.ops.fxmem.gated_linear.default)
    assert node.meta["val"].shape == (64, 16)
    assert "forward" in node.meta["stack_trace"] and "nn_module_stack" in node.meta


def test_report_prints_bits_and_refusals():
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.Tanh())
    report = fxmem.report(fxmem.transform(aten(model, torch.randn(64, 64))))
    assert "kept as its output and a branch bit, slope within 1.4e-04: 32 -> 1 bits" in str(report)
    assert "eager, for activations and norms        0.03 MiB" in str(report)
    assert "kept: nothing else keeps its output" in str(report)
    assert [type(entry).__name__ for entry in report.entries] == ["Site", "Refusal"]


def test_a_report_of_something_else_is_refused():
    with pytest.raises(LookupError) as error:
        fxmem.report(symbolic(nn.GELU()))
    assert str(error.value) == (
        "this module carries no plan: it is not what fxmem.transform returned, or has been "
        "pickled since"
    )


def test_what_is_no_graph_is_refused():
    program = torch.export.export(nn.GELU(), (torch.ones(3),))
    for given, hint in (
        (nn.GELU(), "GELU: torch.fx.symbolic_trace(model) makes one"),
        (program, "ExportedProgram: program.module() is one"),
    ):
        with pytest.raises(TypeError) as error:
            fxmem.transform(given)
        assert str(error.value) == f"gm must be a torch.fx.GraphModule, got {hint}"


def test_impossible_policies_are_refused():
    with pytest.raises(PolicyError, match="unknown rule 'gate'"):
        fxmem.transform(symbolic(nn.GELU()), {"rules": {"gate": True}})
