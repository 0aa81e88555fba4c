"""Norms of a graph that are modules: their mode, what is put on them, an activation behind them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fxmem
from fxmem.ops.norms.modules import of_module

from .dialects import DIALECTS, symbolic
from .test_norms import C, gradients, refusals
from .tools import relative

HOOKED = "its module has hooks or a parametrization, which torch's function would not run"


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_changed_modules_are_left_alone(make):
    hooked, parametrized = make(C), make(C)
    hooked.register_forward_hook(lambda *_: None)
    parametrize.register_parametrization(parametrized, "weight", Doubled())
    for norm in (hooked, parametrized):
        assert refusals(lambda m, x: m.m1(m.m0(x)), norm, nn.Linear(C, C)) == [HOOKED]


def hook(norm):
    norm.register_forward_hook(lambda module, given, output: 3 * output)


def parametrization(norm):
    parametrize.register_parametrization(norm, "weight", Doubled())


@pytest.mark.parametrize("change", [hook, parametrization])
@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_what_is_put_on_a_module_later_is_seen(make, change):
    model = nn.Sequential(make(C), nn.Linear(C, C))
    gm = fxmem.transform(symbolic(model))
    assert len(gm.graph.find_nodes(op="call_function", target=of_module)) == 1
    x = torch.randn(6, C).requires_grad_()
    before = model(x)
    change(model[0])
    assert not torch.allclose(model(x), before, atol=1e-2)
    for found, wanted in zip(gradients(gm, x, model), gradients(model, x, model), strict=True):
        assert relative(found, wanted) < 1e-5


def test_transformed_is_traced_and_pickled():
    gm = fxmem.transform(symbolic(nn.Sequential(nn.BatchNorm1d(C), nn.Linear(C, C))))
    x = torch.randn(6, C)
    for twin in (symbolic(gm), copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert len(twin.graph.find_nodes(op="call_function", target=of_module)) == 1
        assert torch.equal(twin.eval()(x), gm.eval()(x))


ACTIVATIONS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "leaky_relu, in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu": lambda: nn.ELU(0.5),
}


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_batch_norm_modules_with_an_activation(dialect, act):
    if dialect == "make_fx" and "in place" in act:
        pytest.skip("make_fx writes into one of several results, of which nothing says it is new")
    model = nn.Sequential(nn.Linear(C, C), nn.BatchNorm1d(C), ACTIVATIONS[act](), nn.Linear(C, C))
    x = torch.randn(8, C).requires_grad_()
    traced = DIALECTS[dialect](model, x)
    gm = fxmem.transform(traced)
    (found,) = (e for e in fxmem.report(gm).entries if e.rule == "norm_from_output")
    assert found.nbytes == 0 and "activation = (" in gm.code
    if dialect != "symbolic_trace":
        assert found.residual.nbytes == 2 * x.nbytes
    parameters = dict(model.named_parameters()) | dict(model.named_buffers())
    names = [n.target for n in gm.graph.find_nodes(op="placeholder")]
    given = [_given(name, parameters, x) for name in names]
    first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731
    results = [first(module(*given)) for module in (traced, gm)]
    assert torch.equal(*results)
    for y, z in zip(*(torch.autograd.grad(y.sin().sum(), x) for y in results), strict=True):
        assert relative(y, z) < 1e-5


def _given(name, parameters, x):
    """What Dynamo calls L_self_modules_0_parameters_weight_, or the input."""
    short = name.lower().replace("_modules_", "_").replace("_parameters_", "_")
    short = short.replace("_buffers_", "_").rstrip("_")
    ends = (p for key, p in parameters.items() if short.endswith("_" + key.replace(".", "_")))
    return next(ends, x)


def test_batch_norm_module_follows_its_mode():
    """One module serves both: its mode and its counts are those of the call."""
    model = nn.Sequential(nn.Linear(C, C), nn.BatchNorm1d(C), nn.ELU(), nn.Linear(C, C))
    gm, other = fxmem.transform(symbolic(model)), copy.deepcopy(model)
    x = torch.randn(8, C)
    for train in (True, False):
        model.train(train)
        assert torch.equal(gm(x), other.train(train)(x))
        assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert model[1].num_batches_tracked == 1
