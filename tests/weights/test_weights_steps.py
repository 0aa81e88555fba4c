"""The optimizer that a manager follows: its step may be a subclass's, raise, or be wrapped."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fxmem.quantizers import XnorWeight
from fxmem.weights import ExternalWeightManager, OrderError

from .samples import X, model, run

DATA = (X[:3], X[3:], X)
NET = model()


class Own(torch.optim.SGD):
    """A usual subclass: something of its own, then its base's step; it raises where it is told."""

    fails = ""

    def step(self, closure=None):
        self.fail("before")
        super().step(closure)
        self.fail("after")

    def fail(self, where):
        if self.fails == where:
            self.fails = ""
            raise ZeroDivisionError(where)


class Parts(torch.optim.SGD):
    """Its step calls itself for each of two parts."""

    def step(self, closure=None, part=None):
        if part is None:
            self.step(part=0)
            self.step(part=1)
        elif part == 1:
            super().step(closure)


def start(net, kind=torch.optim.SGD, method="xnor", **options):
    net = copy.deepcopy(net)
    optimizer = kind(net.parameters(), lr=0.05, momentum=0.9)
    options = {"exempt": (), "clip_at": 0.3, **options} if method == "xnor" else {"exempt": ()}
    return (
        net,
        optimizer,
        lambda: ExternalWeightManager(net, method, optimizer=optimizer, **options),
    )


def trained(net, optimizer, data=DATA):
    for x in data:
        optimizer.zero_grad()
        run(net, x)
        optimizer.step()
    return net.state_dict()


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


def failing(optimizer, where):
    """Have the first step raise: in what the class does, or in the user's hooks."""
    kind, _, _ = where.partition(" ")
    if kind == "step":
        optimizer.fails = where.removeprefix("step ")
        return

    def hook(*_):
        handle.remove()
        raise ZeroDivisionError(where)

    handle = getattr(optimizer, f"register_step_{kind}_hook")(hook)


def test_a_step_that_calls_itself():
    found = []
    for kind in (torch.optim.SGD, Parts):
        net, optimizer, manage = start(NET, kind)
        manage()
        found.append(trained(net, optimizer))
    assert same(*found)


WHERE = ["step before", "step after"]
WHERE += [f"{kind} hook, {when}" for kind in ("pre", "post") for when in ("earlier", "later")]


@pytest.mark.parametrize("where", ["", *WHERE])
def test_a_subclass_whose_step_calls_its_base_and_raises_once(where):
    """The weights are quantized again, the step may be repeated, and training is as without."""
    torch.optim.SGD(NET.parameters())  # from now on torch runs hooks at the base's step, too
    plain, optimizer, manage = start(NET)
    manage()
    wanted = trained(plain, optimizer)

    net, optimizer, manage = start(NET, Own)
    if where.endswith("earlier"):
        failing(optimizer, where)
    manager = manage()
    run(net, DATA[0])
    if where and not where.endswith("earlier"):
        failing(optimizer, where)
    if where:
        with pytest.raises(ZeroDivisionError, match=where.removeprefix("step ")):
            optimizer.step()
        assert all(held.parameter.abs().unique().numel() <= 12 for held in manager.held)
        stepped = where.startswith("post") or where.endswith("after")
    if not where or not stepped:
        optimizer.step()
    assert same(trained(net, optimizer, DATA[1:]), wanted)


def test_a_sparse_gradient_is_refused_by_name():
    net = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    manager = ExternalWeightManager(
        net, "xnor", {nn.Embedding: "xnor"}, optimizer=optimizer, exempt=()
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.arange(4)).sum().backward()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^0\.weight has a sparse gradient, .* None$"):
            optimizer.step()
        assert same(net.state_dict(), before) and len(net[0].weight[0].abs().unique()) == 1
    manager.remove()
    straight = ExternalWeightManager(net, "binaryconnect", {nn.Embedding: "binaryconnect"})
    with straight:
        net(torch.arange(4)).sum().backward()
    optimizer.step()


@dataclass(frozen=True)
class Once(XnorWeight):
    """Its rule raises once, for the weight of this size."""

    def gradient(self, grad, x):
        if x.shape == (10, 12) and FAILS:
            raise ZeroDivisionError(FAILS.pop())
        return super().gradient(grad, x)


FAILS = []


def test_a_rule_that_raises():
    """Training goes on from quantized weights, and of two parts of a step the first one stays."""
    results = []
    for fails in ([], ["once"]):
        net, optimizer, manage = start(NET, method=Once())
        manager = manage()
        trained(net, optimizer)
        FAILS[:] = fails
        if fails:
            with pytest.raises(ZeroDivisionError, match="once"):
                trained(net, optimizer)
            assert all(held.parameter.abs().unique().numel() <= 12 for held in manager.held)
        results.append({**trained(net, optimizer)})
        optimizer.zero_grad()
        run(net, DATA[0])
        manager.restore()
        before = [held.parameter.grad.clone() for held in manager.held]
        FAILS[:] = ["again"]
        with pytest.raises(ZeroDivisionError, match="again"), manager:
            run(net, DATA[1])
        assert all(map(torch.equal, [held.parameter.grad for held in manager.held], before))
    assert same(*results)


@pytest.mark.parametrize("scheduled", ["before", "after"])
def test_a_step_that_a_scheduler_wraps_and_remove(scheduled):
    net, optimizer, manage = start(NET)

    def schedule():
        return torch.optim.lr_scheduler.StepLR(optimizer, 1)

    scheduler = schedule() if scheduled == "before" else None
    bare = vars(optimizer).get("step")
    manager = manage()
    scheduler = scheduler or schedule()
    trained(net, optimizer)
    scheduler.step()
    assert manager.held[0].parameter.abs().unique().numel() <= 12
    manager.remove()
    assert vars(optimizer).get("step") is bare or scheduled == "after"
    again = manage()
    trained(net, optimizer)
    again.remove()
    wanted = copy.deepcopy(net)
    run(wanted)
    torch.optim.SGD(wanted.parameters(), optimizer.param_groups[0]["lr"]).step()
    optimizer.state.clear()
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.zero_grad()
    run(net)
    optimizer.step()
    assert same(net.state_dict(), wanted.state_dict())


def test_a_step_round_the_managers_is_refused():
    net, optimizer, manage = start(NET)
    manage()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run(net)
    with pytest.raises(OrderError, match="something has replaced the optimizer's step since"):
        type(optimizer).step(optimizer)
    assert same(net.state_dict(), before)
    optimizer.step()

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner):
            self.param_groups = inner.param_groups

    with pytest.raises(ValueError, match="Wrapper wraps an optimizer: give the manager that one"):
        ExternalWeightManager(model(), optimizer=Wrapper(optimizer))
