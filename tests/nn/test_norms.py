"""Norms as modules: torch's state and modes, what is kept, and putting them into a model."""

import copy
import inspect
import pickle

import pytest
import torch

import fxmem
from fxmem import nn

C = 8
MADE = {
    "LayerNorm": (C,),
    "RMSNorm": (C,),
    "GroupNorm": (4, C),
    "BatchNorm1d": (C,),
    "BatchNorm2d": (C,),
    "BatchNorm3d": (C,),
}
X = {"BatchNorm2d": (4, C, 3, 3), "BatchNorm3d": (4, C, 2, 2, 2), "GroupNorm": (4, C, 5)}


def pair(name, *args, **options):
    """Torch's module and ours, of one state that is none to begin with."""
    theirs = getattr(torch.nn, name)(*MADE[name], *args, **options)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 1)
    ours = getattr(nn, name)(*MADE[name], *args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def sample(name):
    return torch.randn(X.get(name, (6, C))).requires_grad_()


def step(module, x):
    y = module(x)
    return y, *torch.autograd.grad(y.sin().sum(), (x, *module.parameters()))


@pytest.mark.parametrize("name", MADE)
def test_is_torchs(name):
    ours, theirs = pair(name)
    assert isinstance(ours, getattr(torch.nn, name)) and name in dir(nn)
    assert "keep='output'" in repr(ours)
    given = list(inspect.signature(getattr(nn, name)).parameters)
    wanted = list(inspect.signature(getattr(torch.nn, name)).parameters)
    assert given[: len(wanted)] == wanted
    followed = ["activation", "activation_param"] if "Batch" in name else []
    assert given[len(wanted) :] == ["keep", *followed]
    x = sample(name)
    for train in (True, False, True):
        torch.testing.assert_close(step(ours.train(train), x), step(theirs.train(train), x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for found, wanted in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(found, wanted)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is type(ours) and repr(twin) == repr(ours)
        assert torch.equal(twin.eval()(x), ours.eval()(x))


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"momentum": 0.3},
        {"affine": False},
        {"track_running_stats": False},
        {"momentum": None, "affine": False, "eps": 0.1},
    ],
)
def test_batch_norm_options(options):
    ours, theirs = pair("BatchNorm1d", **options)
    x = sample("BatchNorm1d")
    for train in (True, True, False, True):
        torch.testing.assert_close(step(ours.train(train), x), step(theirs.train(train), x))
        for found, wanted in zip(ours.buffers(), theirs.buffers(), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", MADE)
def test_input_kept_is_torchs_own(name):
    module = getattr(nn, name)(*MADE[name], keep="input")
    theirs = getattr(torch.nn, name)(*MADE[name])
    assert type(module(sample(name)).grad_fn) is type(theirs(sample(name)).grad_fn)


@pytest.mark.parametrize("act", [torch.nn.LeakyReLU(0.2), torch.nn.ELU(0.2)])
def test_activated_batch_norm(act):
    name = {"LeakyReLU": "leaky_relu", "ELU": "elu"}[type(act).__name__]
    ours = nn.BatchNorm2d(C, activation=name, activation_param=0.2)
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(C), act)
    assert f"activation='{name}'" in repr(ours)
    for train in (True, False):
        x = sample("BatchNorm2d")
        torch.testing.assert_close(step(ours.train(train), x), step(theirs.train(train), x))


def test_compiled():
    ours, theirs = pair("BatchNorm2d", momentum=0.3)
    x = sample("BatchNorm2d")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (wanted,) = torch.autograd.grad(theirs(x).sin().sum(), x)
    torch.testing.assert_close(found, wanted)
    assert ours.num_batches_tracked == 1


def test_refusals():
    with pytest.raises(ValueError, match="keep must be 'output' or 'input'; got 'codes'"):
        nn.LayerNorm(C, keep="codes")
    with pytest.raises(ValueError, match="activation must be one of 'identity', 'leaky_relu'"):
        nn.BatchNorm2d(C, activation="relu")
    with pytest.raises(ValueError, match="keep='input' takes no activation; got 'elu'"):
        nn.BatchNorm2d(C, activation="elu", keep="input")
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(C)(sample("BatchNorm1d"))


def test_convert():
    net = torch.nn.Sequential(*(getattr(torch.nn, name)(*MADE[name]) for name in MADE)).eval()
    before = [*net.parameters(), *net.buffers()]
    found = fxmem.convert(net, {r"\d": "output"})
    assert len(found.changes) == len(MADE) and not found.refusals
    assert all(type(m) is getattr(nn, name) for m, name in zip(net, MADE, strict=True))
    assert all(a is b for a, b in zip([*net.parameters(), *net.buffers()], before, strict=True))
    assert not any(m.training for m in net) and net[0].keep == "output"
    again = fxmem.convert(net, {torch.nn.LayerNorm: {}, nn.GroupNorm: "output"})
    assert len(again.changes) == 2


def test_what_overwrites_the_output_is_named():
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(C), torch.nn.ReLU(inplace=True))
    fxmem.convert(net, {torch.nn.BatchNorm1d: "output"})
    loss = net(sample("BatchNorm1d")).sum()
    with pytest.raises(RuntimeError, match="inplace operation that follows: say inplace=False"):
        loss.backward()


def test_a_weight_that_changes_before_the_backward_is_torchs_to_name():
    norm = nn.LayerNorm(C)
    loss = norm(sample("LayerNorm")).sum()
    with torch.no_grad():
        norm.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_convert_takes_no_codes():
    net = torch.nn.Sequential(torch.nn.LayerNorm(C))
    found = fxmem.convert(net, {torch.nn.LayerNorm: {"bits": 2}})
    assert "0: unchanged: LayerNorm is no activation: it takes no bits" in str(found)


def test_a_new_module_of_the_same_parameters_is_its_own():
    old = torch.nn.LayerNorm(C)
    new = fxmem.nn.drop_in(old)
    new.weight = torch.nn.Parameter(torch.zeros(C))
    assert old.weight.abs().sum() == C and new.bias is old.bias
