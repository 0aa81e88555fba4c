"""Everything in torch.compile, without a graph break."""

import pytest
import torch

from fxmem import functional, nn

# Dynamo makes an object of each torch.autograd.Function that it meets.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

MODULES = {
    "codes": nn.GELU,
    "row": lambda: nn.GELU("tanh", bits=2),
    "parameters": lambda: nn.ELU(1.7, inplace=True),
    "even": nn.Tanh,
    "stepwise": lambda: nn.Hardtanh(-2, 2),
    "output": lambda: nn.SiLU(keep="output"),
    "output in place": lambda: nn.SiLU(inplace=True, keep="output"),
    "drawn": lambda: nn.Sigmoid(unbiased=True),
    "own": lambda: nn.GELU(borders=[0.0], levels=[0.0, 1.0]),
    "Stepwise": lambda: nn.Stepwise([1.0], [1.0, 0.0], "even", (0.5, 0.25)),
    "Stepwise of a function": lambda: nn.Stepwise([0], [0, 1], function=torch.sigmoid),
}


def run(function, x):
    leaf = x.clone().requires_grad_()
    torch.manual_seed(1)
    output = function(leaf.clone())
    output.square().sum().backward()
    return output.detach(), leaf.grad


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    module, x = MODULES[name](), torch.randn(500)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for found, wanted in zip(run(compiled, x), run(module, x), strict=True):
        assert torch.equal(found, wanted)


def test_gated():
    gate, up = torch.randn(2, 500)
    compiled = torch.compile(nn.SwiGLU(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(gate, up), nn.SwiGLU()(gate, up))


def test_numbers_that_change_between_calls():
    """Dynamo makes symbols of them; tables and operators want numbers."""

    def function(x, alpha, bits, level):
        own = functional.gelu(x, borders=[level], levels=(level, 2 * level))
        return functional.elu(x, alpha, bits=bits) + own

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    x = torch.randn(500)
    for numbers in ((1.0, 1, 0.25), (2.0, 2, 0.5), (3.0, 3, 0.75), (0.5, 4, 1.0)):
        found = run(lambda t, n=numbers: compiled(t, *n), x)
        wanted = run(lambda t, n=numbers: function(t, *n), x)
        assert all(map(torch.equal, found, wanted))


def test_modules_that_share_code():
    run_one = torch.compile(lambda module, x: module(x), backend="aot_eager", fullgraph=True)
    x = torch.randn(500)
    for module in (nn.ELU(1.0), nn.ELU(2.0, bits=2), nn.ELU(3.0, bits=1), nn.ELU(0.5)):
        found = run(lambda t, m=module: run_one(m, t), x)
        assert all(map(torch.equal, found, run(module, x)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor():
    module = torch.nn.Sequential(nn.GELU(), nn.SiLU(keep="output"), nn.ReLU())
    x = torch.randn(500)
    compiled = torch.compile(module, fullgraph=True)
    for found, wanted in zip(run(compiled, x), run(module, x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_symbolic_trace():
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(nn.GELU(), nn.SiLU(keep="output")))
    targets = [str(node.target) for node in graph.graph.nodes]
    assert "fxmem.few_bit.default" in targets and "fxmem.from_output.default" in targets
    x = torch.randn(50)
    assert torch.equal(graph(x), nn.SiLU()(nn.GELU()(x)))
