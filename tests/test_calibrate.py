"""calibrate: levels of a model's own, and nothing else of it changed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import fxmem
from fxmem.activations.calculus import slope_curve
from fxmem.activations.table import TABLE
from fxmem.activations.weight import Weight
from fxmem.functional.errors import squared_error
from fxmem.nn.histogram import Histogram


def normal(*size, scale=1.0, shift=0.0):
    return torch.randn(*size) * scale + shift


def rms(name, x, module):
    """The slope's error, measured: gradients against the slope itself, for these inputs."""
    leaf = x.clone().requires_grad_()
    module(leaf).sum().backward()
    exact = slope_curve(TABLE[name])(x.double().numpy())
    return float(np.sqrt(np.mean((leaf.grad.double().numpy() - exact) ** 2)))


@pytest.mark.parametrize(("scale", "shift"), [(0.2, 0.0), (1.0, -2.0), (4.0, 1.0)])
@pytest.mark.parametrize("name", ["gelu", "tanh", "softplus", "squared_relu"])
def test_levels_fit_the_inputs(name, scale, shift):
    kinds = {"gelu": "GELU", "tanh": "Tanh", "softplus": "Softplus", "squared_relu": "SquaredReLU"}
    module = getattr(fxmem.nn, kinds[name])(bits=2)
    net = nn.Sequential(module)
    x = normal(20_000, scale=scale, shift=shift)
    before = rms(name, x, module)
    (site,) = fxmem.calibrate(net, x.split(5000)).sites
    after = rms(name, x, module)
    assert (site.path, site.activation, site.bits, site.elements) == ("0", name, 2, 20_000)
    # A histogram of 256 bins tells the errors to a few per cent.
    assert math.isclose(site.normal, before, rel_tol=0.05)
    assert math.isclose(site.own, after, rel_tol=0.05) and after < before
    assert module.bits is None and len(module.levels) == 4 and module.coding().bits == 2


def test_bits_and_kind():
    net = nn.Sequential(fxmem.nn.SiLU(bits=3))
    fxmem.calibrate(net, [torch.randn(1000)], bits=1)
    assert repr(net[0]) == "SiLU(bits=1, own levels)"
    fxmem.calibrate(net, [torch.randn(1000)], bits=2, unbiased=True)
    assert repr(net[0]) == "SiLU(bits=2, own levels, unbiased=True)"
    fxmem.calibrate(net, [torch.randn(1000)])
    assert repr(net[0]) == "SiLU(bits=2, own levels, unbiased=True)"


def test_nothing_else_changes():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    batch = torch.randn(16, 4)
    state = torch.get_rng_state()
    found = fxmem.calibrate(net, [batch], convert=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training and not any(module._forward_pre_hooks for module in net.modules())
    assert "2: gelu, 3 bits, 128 inputs: rms error" in str(found)


def test_refusals():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.unused = nn.ReLU(), nn.SiLU()
            self.output, self.act = fxmem.nn.SiLU(keep="output"), nn.GELU()

        def forward(self, x, scale):
            return self.act(self.output(self.relu(x))) * scale

    found = fxmem.calibrate(Net(), [{"x": torch.randn(9), "scale": 2}], convert=True)
    assert dict(found.refusals) == {
        "relu": "relu is coded exactly",
        "unused": "no batch reached it",
        "output": "its gradient is exact, computed from the output",
    }
    assert [site.path for site in found.sites] == ["act"]
    assert "unused: unchanged: no batch reached it" in str(found)
    with pytest.raises(ValueError, match=r"no activation of fxmem\.nn"):
        fxmem.calibrate(nn.Sequential(nn.GELU()), [])


class Counting(nn.Module):
    """Replaces one buffer and fills another."""

    def __init__(self):
        super().__init__()
        self.act = fxmem.nn.GELU()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("first", None)

    def forward(self, x):
        self.calls = self.calls + 1
        self.first = x if self.first is None else self.first
        self.first += 0
        return self.act(x)


def test_replaced_buffers_are_put_back():
    net = Counting()
    calls = net.calls
    fxmem.calibrate(net, [torch.randn(9), torch.randn(9)])
    assert net.calls is calls and calls == 0 and net.first is None


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (
            nn.GELU(),
            ": it is one itself, which convert=True cannot replace",
        ),
        (nn.Sequential(nn.GELU()), ", and none can be made: 0: it has hooks"),
        (nn.Linear(2, 2), ", nor one that convert=True could replace"),
    ],
)
def test_why_there_is_nothing_to_calibrate(net, words):
    for module in net.children():
        module.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=rf"no activation of fxmem\.nn{words}"):
        fxmem.calibrate(net, [torch.randn(2, 2)], convert=True)


def test_what_could_not_be_converted_is_said():
    net = nn.Sequential(nn.GELU(), nn.GELU())
    net[1].register_forward_hook(lambda *_: None)
    found = fxmem.calibrate(net, [torch.randn(99)], convert=True)
    assert [site.path for site in found.sites] == ["0"]
    assert found.refusals == (("1", "it has hooks, which another module would not run"),)


def test_batches_without_a_finite_number():
    found = fxmem.calibrate(fxmem.nn.GELU(), [torch.full((3, 4), math.nan), torch.ones(0)])
    assert found.refusals == (("", "none of its 12 inputs is finite"),)


@pytest.mark.parametrize("batches", [torch.randn(4, 8), {"input": torch.randn(4, 8)}])
def test_one_batch_is_no_iterable_of_batches(batches):
    with pytest.raises(TypeError, match=r"iterable of batches; got a [Td]"):
        fxmem.calibrate(fxmem.nn.GELU(), batches)


def test_a_failing_model_is_left_clean():
    net = nn.Sequential(nn.BatchNorm1d(4), fxmem.nn.GELU(), nn.Linear(5, 5))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fxmem.calibrate(net, [torch.randn(3, 4)])
    assert not net[0].num_batches_tracked and not net[1]._forward_pre_hooks
    assert net[1].levels is None


def test_compiled_models_are_counted_and_compiled_anew():
    net = nn.Sequential(nn.Linear(4, 4), fxmem.nn.GELU(bits=1))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x = torch.randn(50, 4)
    compiled(x).sum().backward()
    fxmem.calibrate(compiled, [x])
    found = torch.randn(50, 4).requires_grad_()
    net[0].requires_grad_(False)
    compiled(found).sum().backward()
    again = found.detach().requires_grad_()
    net(again).sum().backward()
    assert net[1].levels is not None and torch.equal(found.grad, again.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_histogram(dtype):
    seen = Histogram()
    x = normal(10_000, scale=2.0).to(dtype)
    for part in (x, x.new_tensor([math.nan, math.inf, -math.inf]), x[:0], x[0]):
        seen.add(part)
    weight = seen.weight()
    assert seen.elements == 10_001 and len(weight.edges) <= 256
    total = np.sum(weight.heights * np.diff(weight.edges))
    mean = np.sum(weight.heights * np.diff(weight.edges**2) / 2)
    assert math.isclose(total, 1) and abs(mean - x.double().mean()) < 0.01


def test_histogram_of_outliers():
    """One far out must not cost the others their bins."""
    seen, plain = Histogram(), Histogram()
    x = torch.randn(100_000)
    plain.add(x)
    seen.add(torch.cat([x, torch.tensor([6e4])]))
    slope, table = slope_curve(TABLE["gelu"]), fxmem.activations.store.levels("gelu", 3)
    errors = [squared_error(slope, table, histogram.weight()) for histogram in (seen, plain)]
    assert math.isclose(*errors, rel_tol=0.01)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_squared_error_is_that_of_the_fit(name, unbiased):
    for weight in ("normal", "uniform", Weight.samples(np.linspace(-1, 3, 99), 16)):
        table = fxmem.activations.store.levels(name, 2, weight, unbiased=unbiased)
        found = squared_error(slope_curve(TABLE[name]), table, weight)
        assert math.isclose(found, table.error, rel_tol=1e-4)


def test_slopes_beyond_all_levels_count_as_they_err():
    """Of drawn codes of an unbounded slope the last level stands for whatever is beyond it."""
    net, x = nn.Sequential(fxmem.nn.SquaredReLU(bits=3, unbiased=True)), normal(100_000, scale=20)
    before = rms("squared_relu", x, net)
    (site,) = fxmem.calibrate(net, [x]).sites
    assert math.isclose(site.normal, before, rel_tol=0.02)
    assert math.isclose(site.own, rms("squared_relu", x, net), rel_tol=0.05)


@pytest.mark.parametrize("give", [lambda act, x: act(input=x), lambda act, x: act(x)])
def test_inputs_by_keyword(give):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = fxmem.nn.GELU(bits=2)

        def forward(self, x):
            return give(self.act, x)

    (site,) = fxmem.calibrate(Net(), [torch.randn(500)]).sites
    assert site.elements == 500


def test_what_cannot_be_fitted():
    net = nn.Sequential(fxmem.nn.Exp())
    ((path, why),) = fxmem.calibrate(net, [torch.linspace(0, 900, 100)]).refusals
    assert path == "0" and "levels can be fitted to a slope that is finite" in why
    for bits in (0, "2", True):
        with pytest.raises(ValueError, match=f"bits must be 1 to 8; got {bits!r}"):
            fxmem.calibrate(net, [], bits)
