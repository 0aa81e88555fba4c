"""Drop-in modules: torch's signatures, and what a module must be able to do."""

import copy
import inspect
import pickle

import pytest
import torch

from fxmem import functional, nn
from fxmem.activations.table import TABLE
from fxmem.nn.generation import class_name, torch_class

ROWS = {class_name(row): row for row in TABLE.values() if not row.gate}
OF_TORCH = {name: row for name, row in ROWS.items() if torch_class(row)}
REQUIRED = {"Threshold": (0.5, 0.25)}
X = torch.linspace(-4, 4, 101)


def made(name, **options):
    return getattr(nn, name)(*REQUIRED.get(name, ()), **options)


def test_names():
    assert sorted(ROWS.keys() - OF_TORCH.keys()) == ["Exp", "GELUTanh", "QuickGELU", "SquaredReLU"]
    assert {"SwiGLU", "GEGLU", "Stepwise", *ROWS} <= set(dir(nn))
    with pytest.raises(AttributeError, match="no 'PReLU': no row of the table"):
        _ = nn.PReLU


@pytest.mark.parametrize("name", OF_TORCH)
def test_signature_is_torchs(name):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    theirs = inspect.signature(getattr(torch.nn, name)).parameters.values()
    wanted = [(p.name, p.default) for p in theirs if p.kind not in kinds]
    ours = inspect.signature(getattr(nn, name)).parameters.values()
    assert [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD] == wanted
    options = [p.name for p in ours if p.kind is p.KEYWORD_ONLY]
    assert options == ["bits", "borders", "levels", "keep", "unbiased"]


@pytest.mark.parametrize("name", ROWS)
def test_it_is_a_module(name):
    module = made(name)
    assert not module.state_dict() and TABLE[ROWS[name].name].name in type(module).__doc__
    if name in OF_TORCH:
        assert isinstance(module, getattr(torch.nn, name))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is type(module) and repr(twin) == repr(module)
        assert torch.equal(twin(X), module(X))


@pytest.mark.parametrize("options", [{}, {"keep": "output"}, {"unbiased": True}])
@pytest.mark.parametrize("name", ROWS)
def test_it_is_its_function(name, options):
    found, wanted = X.clone().requires_grad_(), X.clone().requires_grad_()
    module = made(name, **options)
    arguments = REQUIRED.get(name, ())
    torch.manual_seed(1)
    module(found).sum().backward()
    torch.manual_seed(1)
    getattr(functional, ROWS[name].name)(wanted, *arguments, **options).sum().backward()
    assert torch.equal(found.grad, wanted.grad)


def test_settings_are_torchs():
    x = X.double()
    for ours, theirs in (
        (nn.ELU(1.7, inplace=True), torch.nn.ELU(1.7)),
        (nn.Softplus(beta=2.0), torch.nn.Softplus(beta=2.0)),
        (nn.Hardtanh(-2, 3), torch.nn.Hardtanh(-2, 3)),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.LeakyReLU(0.3), torch.nn.LeakyReLU(0.3)),
    ):
        torch.testing.assert_close(ours(x.clone()), theirs(x), rtol=1e-13, atol=1e-15)


REPRS = {
    "GELU(approximate='tanh', bits=3)": lambda: nn.GELU("tanh"),
    "ELU(alpha=2.0, inplace=True, bits=2)": lambda: nn.ELU(2.0, True, bits=2),
    "ReLU(bits=1)": lambda: nn.ReLU(bits=5),
    "SiLU(keep='output')": lambda: nn.SiLU(keep="output"),
    "Tanh(bits=4, unbiased=True)": lambda: nn.Tanh(bits=4, unbiased=True),
    "Mish(bits=1, own levels)": lambda: nn.Mish(borders=[0.0], levels=[0.0, 1.0]),
    "QuickGELU(bits=3)": nn.QuickGELU,
    "SwiGLU()": nn.SwiGLU,
    "Stepwise(3 levels, bits=2)": lambda: nn.Stepwise([-1, 1], [0, 1, 0]),
    "Stepwise(2 levels, bits=1, parity='even', shift=(0.5, 0.0), function=gelu)": (
        lambda: nn.Stepwise([1], [1, 0], "even", (0.5, 0), function=torch.nn.functional.gelu)
    ),
}


@pytest.mark.parametrize("text", REPRS)
def test_repr(text):
    assert repr(REPRS[text]()) == text


def test_impossible_options_are_refused_at_once():
    with pytest.raises(ValueError, match="bits must be 1 to 8; got 0"):
        nn.GELU(bits=0)
    with pytest.raises(ValueError, match="output of leaky_relu, negative_slope=0 does not"):
        nn.LeakyReLU(0.0, keep="output")
    with pytest.raises(TypeError, match="approximat"):
        nn.GELU(approximat="tanh")


def test_options_may_be_set_later():
    module, x = nn.SiLU(), X.clone().requires_grad_()
    module.bits = 1
    module(x).sum().backward()
    assert len(x.grad.unique()) == 2 and repr(module) == "SiLU(bits=1)"


def test_gated():
    gate, up = torch.randn(2, 50)
    wanted = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(nn.SwiGLU()(gate, up), wanted)
    torch.testing.assert_close(nn.GEGLU()(gate, up), torch.nn.functional.gelu(gate) * up)


def test_functional_call_and_autocast():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), nn.GELU(), torch.nn.Linear(8, 2))
    x = torch.randn(3, 4)
    twin = {name: p.detach() * 2 for name, p in model.named_parameters()}
    found = torch.func.functional_call(model, twin, x)
    model.load_state_dict(twin)
    assert torch.equal(found, model(x))
    with torch.autocast("cpu", torch.bfloat16):
        model(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_repr_of_options_that_were_set_wrongly():
    module = nn.GELU(bits=3)
    module.bits = 20
    wanted = "GELU(approximate='none', impossible: bits must be 1 to 8; got 20)"
    assert repr(module) == wanted
    module.bits, module.levels = None, "few"
    assert repr(module).startswith("GELU(approximate='none', impossible: ")
