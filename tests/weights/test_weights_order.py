"""The order of the manager's calls, and the gradients of several micro-steps."""

import copy

import pytest
import torch
from torch import nn

from fxmem.weights import ExternalWeightManager, OrderError

from .samples import X, model, run, weights


def test_order():
    net = model()
    manager = ExternalWeightManager(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for call in (manager.restore, manager.clip):
        with pytest.raises(OrderError, match=r"expects quantize\(\).* first: the weights are"):
            call()
    manager.quantize()
    with pytest.raises(OrderError, match=r"clip\(\) expects restore\(\) and then optimizer.step"):
        manager.clip()
    with pytest.raises(OrderError, match=r"optimizer.step\(\) expects restore\(\) first"):
        optimizer.step()
    run(net)
    manager.restore()
    with pytest.raises(OrderError, match=r"restore\(\) expects quantize\(\) first"):
        manager.restore()
    optimizer.step()
    with pytest.raises(OrderError, match=r"quantize\(\) expects clip\(\) first: the optimizer has"):
        manager.quantize()
    manager.clip()
    with manager.evaluate():
        for call in (
            manager.quantize,
            manager.restore,
            manager.clip,
            optimizer.step,
            manager.export,
        ):
            if call != manager.export:
                with pytest.raises(OrderError, match=r"expects the end of `with manager.evaluate"):
                    call()
        with pytest.raises(OrderError, match="expects the end"), manager.evaluate():
            pass
    manager.remove()
    with pytest.raises(OrderError, match=r"quantize\(\) expects a new manager"):
        manager.quantize()


def test_of_two_managers_one_quantizes_at_a_time():
    net = model()
    before = weights(net)
    first, second = ExternalWeightManager(net), ExternalWeightManager(net, "dorefa", exempt=())
    for one, other in ((first, second), (second, first)):
        with one:
            for call in (other.quantize, other.export, other.evaluate().__enter__):
                with pytest.raises(
                    OrderError, match=r"expects restore\(\) of another manager first"
                ):
                    call()
            assert all(map(torch.equal, before, weights_of(net.state_dict())))
        with one.evaluate(), pytest.raises(OrderError, match=r"which has quantized 0\.weight"):
            other.quantize()
    assert all(map(torch.equal, before, weights(net)))


def weights_of(state):
    return [value for name, value in state.items() if name.endswith("weight")]


def test_other_optimizers_may_step():
    net, other = model(), nn.Linear(2, 2)
    with ExternalWeightManager(net):
        torch.optim.SGD(other.parameters(), lr=0.1).step()


def test_quantizing_again_never_takes_the_quantized_for_masters():
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net)
    for _ in range(3):
        manager.quantize()
    manager.restore()
    assert all(map(torch.equal, weights(net), before))


def test_an_error_inside_puts_the_masters_back():
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net)
    with pytest.raises(ZeroDivisionError), manager:
        raise ZeroDivisionError
    assert all(map(torch.equal, weights(net), before))
    with pytest.raises(ZeroDivisionError):
        ExternalWeightManager(net, lambda w: w / (w.shape[0] == 12 or 1 // 0)).quantize()
    assert all(map(torch.equal, weights(net), before))
    with manager:
        run(net)


def test_a_backward_after_restore_raises():
    net = model()
    manager = ExternalWeightManager(net)
    with manager:
        loss = net(X).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("method", ["binarynet", "xnor", "dorefa"])
def test_gradients_of_several_micro_steps_add_up(method):
    options = {"bits": 2} if method == "dorefa" else {}
    one = model()
    with torch.no_grad():
        one[0].weight.mul_(8)
    two, three = copy.deepcopy(one), copy.deepcopy(one)
    with ExternalWeightManager(one, method, exempt=(), **options):
        run(one, X[:3])
        run(one, X[3:])
    manager = ExternalWeightManager(two, method, exempt=(), **options)
    for part in (X[:3], X[3:]):
        with manager:
            run(two, part)
    manager = ExternalWeightManager(three, method, exempt=(), **options)
    for part in (X[:3], X[3:]):
        manager.quantize()
        run(three, part)
    manager.restore()
    for p, q, r in zip(one.parameters(), two.parameters(), three.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)
        torch.testing.assert_close(r.grad, p.grad)


def test_zero_grad_inside_forgets_what_was_before():
    net = model()
    manager = ExternalWeightManager(net, "xnor", exempt=())
    with manager:
        run(net)
    wanted = [p.grad.clone() for p in net.parameters()]
    with manager:
        net.zero_grad()
        run(net)
    assert all(torch.equal(p.grad, w) for p, w in zip(net.parameters(), wanted, strict=True))


def test_a_step_without_clip_where_the_method_wants_none():
    net = model()
    manager = ExternalWeightManager(net, "dorefa", exempt=(), bits=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for set_to_none in (True, False):
        with manager:
            optimizer.zero_grad(set_to_none)
            run(net)
        found = [p.grad.clone() for p in net.parameters()]
        fresh = copy.deepcopy(net)
        with ExternalWeightManager(fresh, "dorefa", exempt=(), bits=2):
            fresh.zero_grad()
            run(fresh)
        assert all(torch.equal(p.grad, g) for p, g in zip(fresh.parameters(), found, strict=True))
        optimizer.step()


def test_evaluating_between_micro_steps_counts_as_no_step():
    one = model()
    two = copy.deepcopy(one)
    for net, evaluated in ((one, False), (two, True)):
        manager = ExternalWeightManager(net, "xnor", exempt=(), clip_at=1.0)
        for part in (X[:3], X[3:]):
            with manager:
                run(net, part)
            if evaluated:
                with manager.evaluate():
                    net(X)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(q.grad, p.grad)


def test_what_a_refused_manager_leaves():
    net = model()
    before, hooks = weights(net), [len(m._state_dict_hooks) for m in net.modules()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the method makes"):
        ExternalWeightManager(net, lambda w: w.sum(), optimizer=optimizer)
    assert hooks == [len(m._state_dict_hooks) for m in net.modules()]
    run(net)
    optimizer.step()
    assert not any(map(torch.equal, weights(net), before))


def test_an_error_in_a_later_micro_step_keeps_the_gradients_before():
    one = model()
    two = copy.deepcopy(one)
    for net, fails in ((one, False), (two, True)):
        manager = ExternalWeightManager(net, "xnor", exempt=())
        with manager:
            run(net, X[:3])
        if fails:
            with pytest.raises(ZeroDivisionError), manager:
                raise ZeroDivisionError
        with manager:
            run(net, X[3:])
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(q.grad, p.grad)
