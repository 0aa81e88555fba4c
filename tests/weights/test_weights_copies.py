"""What else touches a managed model: copies, averages, casts, in-place functions."""

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fxmem.quantizers import Binary, Quantizer
from fxmem.weights import ExternalWeightManager, Treatment

from .samples import X, model, run, weights


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_deep_copies_have_the_masters():
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net, exempt=("last",))
    with manager:
        copied = copy.deepcopy(net)
        with manager.evaluate():
            evaluated = copy.deepcopy(nn.ModuleDict({"inner": net}))
        kept = copy.deepcopy(net, {id(net[0].weight): net[0].weight})
        assert kept[0].weight is net[0].weight and net[0].weight.unique().tolist() == [-1, 1]
        assert same(weights(copied), before) and same(weights(evaluated), before)
        run(copied)
        torch.optim.SGD(copied.parameters(), 0.1).step()
        assert same(list(copied.state_dict().values())[::2], weights(copied))
    assert same(weights(net), before)


@pytest.mark.parametrize("state", ["master", "quantized", "removed"])
def test_a_deep_copy_has_no_tie_to_the_manager(state):
    net = model()
    before, manager = weights(net), ExternalWeightManager(net)
    if state == "quantized":
        manager.quantize()
    copied = copy.deepcopy(net)
    if state == "removed":
        manager.remove()
    for again in (copied, copy.deepcopy(copied), pickle.loads(pickle.dumps(copied))):
        assert same(weights(again), before)
        again.load_state_dict({name: 2 * v for name, v in again.state_dict().items()})
        with ExternalWeightManager(again, "xnor"):
            assert same(list(again.state_dict().values())[::2], [2 * w for w in before])
    known = weakref.ref(net), weakref.ref(manager)
    del net, manager
    gc.collect()
    assert [ref() for ref in known] == [None, None]


def test_a_manager_is_not_copied():
    manager = ExternalWeightManager(model())
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a manager cannot be copied or pickled: make one of"):
            call(manager)


def test_an_average_of_the_masters():
    net, follows = model(), None
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    manager = ExternalWeightManager(net, "binarynet", optimizer=optimizer)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(4):
        optimizer.zero_grad()
        run(net)
        optimizer.step()
        with manager.evaluate("master"):
            average.update_parameters(net)
        masters = [held.master for held in manager.held]
        follows = (
            [0.9 * a + 0.1 * m for a, m in zip(follows, masters, strict=True)]
            if follows
            else [m.clone() for m in masters]
        )
    for found, wanted in zip(weights(average), follows, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("where", ["made", "entered", "evaluated"])
def test_a_first_use_in_inference_mode(where):
    nets = [model()]
    nets.append(copy.deepcopy(nets[0]))
    for net, inference in zip(nets, (True, False), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        with torch.inference_mode(inference):
            manager = ExternalWeightManager(net, "xnor", optimizer=optimizer, exempt=())
            if where != "made":
                manager.restore()
            if where == "entered":
                with manager:
                    net(X)
            elif where == "evaluated":
                with manager.evaluate():
                    net(X)
        manager.quantize()
        for _ in range(2):
            optimizer.zero_grad()
            run(net)
            optimizer.step()
    assert same(*(list(net.state_dict().values()) for net in nets))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_while_quantized_casts_the_masters(dtype):
    net = model()
    manager = ExternalWeightManager(net, "xnor", exempt=())
    wanted = [w.to(dtype) for w in weights(net)]
    with manager:
        net.to(dtype)
        assert same(list(net.state_dict().values())[::2], wanted)
        manager.quantize()
        run(net, X.to(dtype))
        with manager.evaluate():
            net.to(torch.float16).to(dtype)
            assert {value.dtype for value in net.state_dict().values()} == {dtype}
    assert same(weights(net), wanted)
    assert all(p.grad.dtype == dtype for p in net.parameters())


def test_an_export_has_the_names_of_the_state_dict():
    def wrapped():
        net = model()
        net[0], net[2] = checkpoint_wrapper(net[0]), checkpoint_wrapper(net[2])
        net[2]._checkpoint_wrapped_module.weight = net[2].weight
        return net

    net = wrapped()
    manager = ExternalWeightManager(net, exempt=("last",))
    wanted = Binary().value(net[0].weight)
    for state in ("master", "quantized"):
        export = manager.export(masters=torch.float32)
        assert list(export.packed) == list(export.dense_bytes) == ["0.weight", "2.weight"], state
        assert torch.equal(export.load_into(wrapped())[0].weight, wanted)
        assert torch.equal(export.load_into(model())[0].weight, wanted)
        if state == "master":
            manager.quantize()


def test_a_method_that_returns_no_tensor():
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net, {}.get)
    for call in (manager.quantize, manager.export):
        with pytest.raises(TypeError, match=r"^0\.weight: the method returns no tensor; got None$"):
            call()
    assert same(weights(net), before)


@dataclass(frozen=True)
class InPlace(Quantizer):
    """A user's own, which writes into what it is given."""

    grid, bits, signed, straight = "sign", 1, False, False

    def encode(self, x, generator=None):
        return x.ge_(0), x.new_ones(())

    def gradient(self, grad, x):
        return x.mul_(grad)


IN_PLACE = [
    *((torch.Tensor.sign_, {}), (Treatment(torch.Tensor.sign_), {}), (InPlace(), {})),
    *(("xnor", {"project": torch.Tensor.neg_}), (torch.abs, {"project": torch.Tensor.neg_})),
]


@pytest.mark.parametrize(("method", "options"), IN_PLACE)
def test_functions_that_write_into_the_weight_leave_the_masters(method, options):
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net, method, exempt=(), **options)
    manager.export()
    with manager.evaluate():
        pass
    with manager.evaluate("sampled"):
        pass
    assert all(map(torch.equal, weights(net), before))
    with manager:
        manager.export()
        assert not any(map(torch.equal, weights(net), before))
        run(net)
    assert all(map(torch.equal, weights(net), before))


@pytest.mark.parametrize(
    ("method", "options"),
    [("binaryconnect", {"scale": 0.01}), ("binarynet", {"lr_scale": True}), ("wageubn", {})],
)
def test_frozen_weights_stay_what_they_are(method, options):
    net = model()
    net[2].weight.requires_grad_(False).mul_(100)
    before = weights(net)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    manager = ExternalWeightManager(net, method, optimizer=optimizer, exempt=(), **options)
    for _ in range(2):
        run(net)
        optimizer.step()
    manager.remove()
    assert list(map(torch.equal, weights(net), before)) == [False, True, False]
