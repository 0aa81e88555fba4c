"""convert and map_module: what they replace, what stays, and what they say."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import fxmem

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))


def model():
    shared = nn.SiLU()
    block = nn.ModuleDict({"norm": nn.LayerNorm(8), "act": shared, "again": shared})
    return nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh"), block, nn.PReLU(), nn.Hardshrink(0.3))


def test_by_type():
    net = model()
    keys = list(net.state_dict())
    found = fxmem.convert(net, {nn.GELU: {"bits": 2}, nn.Hardshrink: "output"})
    assert str(found) == (
        "1: GELU(approximate='tanh') -> GELU(approximate='tanh', bits=2)\n"
        "4: Hardshrink(0.3) -> Hardshrink(0.3, keep='output')\n"
        "2 changed, 0 refused"
    )
    assert found.model is net and isinstance(net[1], fxmem.nn.GELU)
    assert list(net.state_dict()) == keys
    torch.testing.assert_close(net[1](X), nn.GELU("tanh")(X))


def test_subclasses_are_not_their_bases():
    net = nn.Sequential(nn.ReLU6(), nn.Hardtanh(), type("Own", (nn.ReLU,), {})())
    fxmem.convert(net, {nn.Hardtanh: {}})
    assert type(net[0]) is nn.ReLU6 and type(net[1]) is fxmem.nn.Hardtanh
    with pytest.raises(ValueError, match="nothing in the model fits ReLU"):
        fxmem.convert(net, {nn.ReLU: {}})


def test_shared_modules_stay_shared():
    net = model()
    found = fxmem.convert(net, {r"2\.again": {"bits": 1}})
    assert net[2]["act"] is net[2]["again"] and isinstance(net[2]["act"], fxmem.nn.SiLU)
    (change,) = found.changes
    assert change.paths == ("2.act", "2.again") and change.after == "SiLU(bits=1)"


def test_by_name_and_predicate():
    net = model()
    fxmem.convert(net, {r"\d": {"bits": 1}, lambda module, path: path.endswith("act"): "output"})
    assert repr(net[1]) == "GELU(approximate='tanh', bits=1)"
    assert repr(net[2]["act"]) == "SiLU(keep='output')"


def test_refusals_are_sentences():
    net = model()
    net[1].register_forward_hook(lambda *_: None)
    found = fxmem.convert(net, {r".*": {"borders": [0.0], "levels": [0.0, 1.0]}})
    reasons = {path: r.reason for r in found.refusals for path in r.paths}
    assert reasons["1"] == "it has hooks, which another module would not run"
    assert reasons["3"] == "fxmem.nn has no drop-in for PReLU"
    assert reasons["4"] == "hardshrink is coded exactly: it takes no borders and levels"
    assert reasons["2.norm"] == "LayerNorm is no activation: it takes no borders, levels"
    assert [change.paths for change in found.changes] == [("2.act", "2.again")]


def test_many_refusals_of_one_kind_are_one_line():
    net = nn.Sequential(*(nn.PReLU() for _ in range(9)))
    text = str(fxmem.convert(net, {nn.PReLU: {}}))
    assert text.splitlines()[0].startswith("0, 1, 2 and 6 more: unchanged: fxmem.nn has no drop-in")


def test_other_modules():
    net = model()
    fxmem.convert(net, {nn.GELU: nn.Tanh, nn.SiLU: lambda old: nn.Sequential(old)})
    assert type(net[1]) is nn.Tanh and isinstance(net[2]["act"], nn.Sequential)


def test_again_with_other_options():
    net = model().eval()
    fxmem.convert(net, {nn.GELU: {"bits": 2}})
    fxmem.convert(net, {nn.GELU: "output"})
    assert repr(net[1]) == "GELU(approximate='tanh', keep='output')" and not net[1].training


@pytest.mark.parametrize(
    ("name", "wanted"),
    {
        "gelu": "GELU(approximate='none', bits=2)",
        "gelu_new": "GELUTanh(bits=2)",
        "gelu_fast": "GELUTanh(bits=2)",
        "gelu_pytorch_tanh": "GELUTanh(bits=2)",
        "quick_gelu": "QuickGELU(bits=2)",
        "relu2": "SquaredReLU(bits=2)",
        "silu": "SiLU(bits=2)",
        "mish": "Mish(bits=2)",
    }.items(),
)
def test_transformers_activations(name, wanted):
    activations = pytest.importorskip("transformers.activations")
    net = nn.Sequential(activations.ACT2FN[name])
    expected = net(X)
    fxmem.convert(net, {"0": {"bits": 2}})
    assert repr(net[0]) == wanted
    torch.testing.assert_close(net(X), expected)


@pytest.mark.parametrize(
    "module", [nn.Dropout2d(), nn.Identity(), nn.Softmax(-1), nn.Bilinear(1, 1, 1)]
)
def test_what_is_no_activation(module):
    state = torch.get_rng_state()
    found = fxmem.convert(nn.Sequential(module), {"0": {}})
    assert str(found).startswith(
        f"0: unchanged: fxmem.nn has no drop-in for {type(module).__name__}"
    )
    assert torch.equal(torch.get_rng_state(), state)


class Moody(nn.Module):
    """Another function in evaluation; or the same, with what it is asked for read once."""

    def __init__(self, other, slope=0.1):
        super().__init__()
        self.inner, self.other, self.slope = nn.Identity().eval(), other, slope

    def forward(self, x):
        if self.training or not self.other:
            return nn.functional.leaky_relu(x, self.slope)
        return nn.functional.hardswish(x)


@pytest.mark.parametrize("training", [True, False])
def test_both_modes_count(training):
    net = nn.Sequential(Moody(True), Moody(False))
    net[0].training = net[1].training = training
    left = net[0]
    found = fxmem.convert(net, {r"\d": {"bits": 1}})
    assert str(found.refusals[0].reason) == "fxmem.nn has no drop-in for Moody"
    assert net[0] is left and (left.training, left.inner.training) == (training, False)
    assert repr(net[1]) == "LeakyReLU(negative_slope=0.1, bits=1)" and net[1].training == training


def test_the_model_itself():
    found = fxmem.convert(nn.GELU(), {nn.GELU: {}})
    assert isinstance(found.model, fxmem.nn.GELU)
    assert str(found).startswith("the model itself: GELU(approximate='none') -> ")


ERRORS = [
    ({nn.Mish: {}, "gelu": {}}, ValueError, "nothing in the model fits 'gelu', Mish"),
    ({"act": {}}, ValueError, r"fits 'act' \(it must match a whole path, as '2.act' is one\)"),
    ({"*.act": {}}, ValueError, r"'\*.act' is no regular expression: nothing to repeat"),
    ({3: {}}, TypeError, "a type, a regular expression or a predicate; got 3"),
    ({nn.GELU(): {}}, TypeError, "a type, a regular expression or a predicate; got GELU"),
    ([nn.GELU], TypeError, "rules must be a dict of keys to values"),
    ({nn.Linear: {"sketch": {"ratio": 0.1}}}, ValueError, "of a sketch ratio; allowed: proj_dim_r"),
    ({nn.Linear: {"sketch": 0.1, "matmul": "crs"}}, ValueError, r"{'sketch': {'proj_dim_ratio': "),
    ({nn.GELU: {"bit": 3}}, ValueError, "unknown option bit; allowed: bits, borders, levels, keep"),
    ({nn.GELU: {"bits": 9}}, ValueError, "bits must be 1 to 8; got 9"),
    ({nn.GELU: "exact"}, ValueError, "keep must be 'codes' or 'output'; got 'exact'"),
    ({nn.GELU: nn.GELU()}, TypeError, "options, a type of module or a function; got GELU"),
    ({nn.GELU: lambda old: None}, TypeError, "function must return a module; got None"),
    ({nn.GELU: {}, nn.Linear: nn.Tanh}, ValueError, r"0: the state_dict of Tanh holds nothing"),
]


@pytest.mark.parametrize(("rules", "kind", "words"), ERRORS, ids=[e[2] for e in ERRORS])
def test_errors_leave_the_model_alone(rules, kind, words):
    net = model()
    before = list(net.modules())
    with pytest.raises(kind, match=words):
        fxmem.convert(net, rules)
    assert all(a is b for a, b in zip(before, net.modules(), strict=True))


def test_what_reads_the_same_is_told_apart():
    found = fxmem.convert(nn.Sequential(nn.Dropout(0.1)), {nn.Dropout: {}})
    line = "0: Dropout(p=0.1, inplace=False) -> fxmem.nn.dropout.Dropout(p=0.1, inplace=False)"
    assert str(found).splitlines()[0] == line


def test_map_module_visits_children_first_and_once():
    net, seen = model(), []

    def note(module, path):
        seen.append(path)
        return module

    assert fxmem.map_module(net, note) is net
    assert seen == ["0", "1", "2.norm", "2.act", "2", "3", "4", ""]
    seen.clear()
    fxmem.map_module(net, note, r"2\..*")
    assert seen == ["2.norm", "2.act"]


def test_map_module_replaces():
    net = fxmem.map_module(model(), lambda m, path: nn.ReLU() if path == "2.act" else m)
    assert type(net[2]["act"]) is nn.ReLU and net[2]["act"] is net[2]["again"]
    assert isinstance(fxmem.map_module(net, lambda m, path: nn.Sequential(m), ""), nn.Sequential)


def test_importing_fxmem_is_cheap():
    """Convert and calibrate are there at once, sympy and all that needs it on first use."""
    script = (
        "import sys, fxmem; fxmem.convert, fxmem.calibrate; assert 'sympy' not in sys.modules; "
        "fxmem.nn.GELU(), fxmem.functional.gelu; assert 'sympy' in sys.modules; "
        "fxmem.nn.quantized.QuantConfig, fxmem.nn.reversible.MomentumNet"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    with pytest.raises(AttributeError, match="module 'fxmem' has no attribute 'activation'"):
        _ = fxmem.activation
