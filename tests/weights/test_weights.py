"""The external weight manager: its order, its gradient rules, and masters to the last bit."""

import pickle

import pytest
import torch
from torch import nn

from fxmem.quantizers import Binary, XnorWeight, dorefa, glorot_scale, wageubn
from fxmem.weights import METHODS, ExternalWeightManager, Treatment, centred

from .samples import X, model, run, weights

QUANTIZERS = {
    "binaryconnect": Binary(),
    "binarynet": Binary(masked=True),
    "xnor": XnorWeight(),
    "dorefa": dorefa.weight(1),
    "wageubn": wageubn.weight(8),
}


@pytest.mark.parametrize("method", METHODS)
def test_quantized_inside_and_master_outside(method):
    net, quantizer = model(), QUANTIZERS[method]
    before = weights(net)
    manager = ExternalWeightManager(net, method, exempt=())
    with manager:
        for p, w in zip(weights(net), before, strict=True):
            assert torch.equal(p, quantizer.value(w))
    for p, w in zip(weights(net), before, strict=True):
        assert torch.equal(p, w)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_differentiable_quantizer(method):
    """As if the quantizer stood in the forward itself, where autograd differentiates it."""
    net, quantizer = model(), QUANTIZERS[method]
    with torch.no_grad():
        net[0].weight.mul_(8)  # some weights lie beyond 1
    names = [name for name, p in net.named_parameters() if p.dim() > 1]
    inside = {name: quantizer(net.get_parameter(name)) for name in names}
    loss = torch.func.functional_call(net, inside, X).square().sum()
    wanted = torch.autograd.grad(loss, [net.get_parameter(name) for name in names])
    with ExternalWeightManager(net, method, exempt=()):
        run(net)
    for name, grad in zip(names, wanted, strict=True):
        torch.testing.assert_close(net.get_parameter(name).grad, grad, rtol=1e-6, atol=1e-7)


def test_autocast_casts_what_is_there_now():
    """Within one region autocast would go on with its cast of the masters."""
    net = model()
    manager = ExternalWeightManager(net, "binaryconnect")
    with torch.autocast("cpu", torch.bfloat16):
        real = net(X)
        with manager:
            inside = net(X)
        assert torch.equal(net(X), real)
    with manager, torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(X), inside) and not torch.equal(inside, real)


def test_options_reach_the_quantizers():
    def of(method, **options):
        net = model()
        return ExternalWeightManager(net, method, exempt=(), **options).held[0].treatment.quantize

    assert of("dorefa", bits=3) == dorefa.weight(3)
    assert of("xnor", exact=True) == XnorWeight(exact=True)
    assert of("wageubn", bits=6) == wageubn.weight(6)
    assert of("binaryconnect", stochastic=True, scale=0.5) == Binary(True, scale=0.5)
    assert of("binaryconnect", scale="glorot").scale == glorot_scale(nn.Linear(8, 12).weight)
    assert glorot_scale(torch.empty(7, 5, 3, 2)) == (1.5 / (12 * 6)) ** 0.5


def test_masters_are_clipped_after_the_step():
    net = model()
    manager = ExternalWeightManager(net, "binaryconnect", scale=0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with manager:
        run(net)
    optimizer.step()
    assert max(w.abs().max() for w in weights(net)) > 0.25
    manager.clip()
    assert max(w.abs().max() for w in weights(net)) == 0.25
    assert net[0].bias.abs().max() > 0.25  # biases are real


def test_steps_are_scaled_by_one_over_h():
    net = model()
    manager = ExternalWeightManager(net, "binaryconnect", scale="glorot", lr_scale=True)
    before = weights(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    with manager:
        run(net)
    optimizer.step()
    manager.clip()
    for layer, w in zip((net[0], net[2], net[3]), before, strict=True):
        h = glorot_scale(w)
        step = (w - 1e-4 * layer.weight.grad) - w
        torch.testing.assert_close(layer.weight.detach(), (w + step / h).clamp(-h, h))


def test_wageubn_masters_are_kept_on_their_grid():
    net = model()
    manager = ExternalWeightManager(net, "wageubn", exempt=(), update_bits=10)
    with manager:
        run(net)
    torch.optim.SGD(net.parameters(), lr=0.01).step()
    manager.clip()
    assert all(torch.equal(w * 512, (w * 512).round()) for w in weights(net))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.embedding(tokens))


def test_tied_weights_are_quantized_once():
    net = Tied()
    manager = ExternalWeightManager(net, "xnor", exempt=())
    (held,) = manager.held
    assert [place.name for place in held.site.places] == ["embedding.weight", "out.weight"]
    before = net.out.weight.detach().clone()
    with manager:
        assert net.out.weight is net.embedding.weight
        assert torch.equal(net.embedding.weight, XnorWeight().value(before))
    assert torch.equal(net.out.weight, before)


def test_functions_and_treatments_as_methods():
    net = model()
    before = weights(net)
    with ExternalWeightManager(net, torch.round):
        assert all(map(torch.equal, weights(net), map(torch.round, before)))
    with ExternalWeightManager(net, Binary(), project=centred):
        wanted = [Binary().value(w - w.mean(1, keepdim=True)) for w in before]
        assert all(map(torch.equal, weights(net), wanted))
    treatment = Treatment(torch.sign, finish=torch.zeros_like)
    manager = ExternalWeightManager(net, treatment)
    with manager:
        assert net[0].weight.unique().tolist() == [-1, 1]
    manager.clip()
    assert not any(w.any() for w in weights(net))
    with pytest.raises(ValueError, match=r"0.weight: the method makes \[12\] of a weight of"):
        ExternalWeightManager(net, lambda w: w.sum(1)).quantize()


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_leaves_no_trace(method):
    net = model()
    manager = ExternalWeightManager(net, method, exempt=())
    before, quantizer = weights(net), QUANTIZERS[method]
    addresses = [p.data_ptr() for p in net.parameters()]
    for policy in (None, "quantized", "sampled", "master"):
        with manager.evaluate(policy) as shown:
            wanted = before if policy == "master" else map(quantizer.value, before)
            assert shown is net and all(map(torch.equal, weights(net), wanted))
        assert all(map(torch.equal, weights(net), before))
    assert addresses == [p.data_ptr() for p in net.parameters()]
    with pytest.raises(ValueError, match="policy must be one of quantized, sampled, master; got"):
        manager.evaluate("real").__enter__()


def test_evaluation_of_stochastic_weights():
    net, draw = model(), torch.Generator().manual_seed(1)
    manager = ExternalWeightManager(net, stochastic=True, generator=draw)
    before = weights(net)
    manager.quantize()
    drawn, state = weights(net), draw.get_state()
    with manager.evaluate():  # the published way: with the real weights
        assert all(map(torch.equal, weights(net), before))
    with manager.evaluate("quantized"):
        assert all(map(torch.equal, weights(net), map(Binary().value, before)))
    with manager.evaluate("sampled", torch.Generator().manual_seed(2)):
        assert not all(map(torch.equal, weights(net), drawn))
    assert all(map(torch.equal, weights(net), drawn)) and torch.equal(draw.get_state(), state)
    manager.quantize()
    assert not all(map(torch.equal, weights(net), drawn))
    again = torch.Generator().manual_seed(1)
    manager.restore()
    other = ExternalWeightManager(net, stochastic=True, generator=again)
    other.quantize()
    assert all(map(torch.equal, weights(net), drawn))


def test_pickles():
    net = model()
    manager = ExternalWeightManager(net)
    with manager:
        with pytest.raises(RuntimeError, match="cannot be pickled: save its state_dict"):
            pickle.dumps(net)
    manager.remove()
    pickle.dumps(net)


def test_str():
    text = str(ExternalWeightManager(model(), "dorefa", bits=2))
    assert text.splitlines() == [
        "2.weight [10, 12]: WeightLevels(bits=2)",
        "weights quantized: 1; their masters take 480 bytes more",
    ]
