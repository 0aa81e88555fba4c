"""An optimizer's step within the backward: the same training, without the gradients."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from fxmem.measure import peak_bytes
from fxmem.nn.reversible import MomentumNet, ReversibleSequential

from .blocks import assert_close, chains, linear


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.05)


def train(model, optimizer=None, steps=4):
    torch.manual_seed(2)
    for _ in range(steps):
        model(torch.randn(4, 6, dtype=torch.float64)).pow(2).sum().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_same_training(memory):
    blocks = [linear(3).double() for _ in range(3)]
    (plain,) = chains(blocks, ["none"])
    (fused,) = chains(blocks, [memory], fused_optimizer=adam)
    train(plain, adam(plain.parameters()))
    threads = threading.active_count()
    train(fused)
    assert threading.active_count() == threads
    assert all(p.grad is None for p in fused.parameters())
    assert_close(list(fused.parameters()), list(plain.parameters()), rtol=1e-9)


def test_shared_parameters_are_stepped_once_with_the_whole_gradient():
    """In the chain three times, and once more behind it."""
    found = []
    for options in ({}, {"fused_optimizer": adam}):
        torch.manual_seed(0)
        shared = linear(3).double()
        model = ReversibleSequential(*[nn.Sequential(shared) for _ in range(3)], **options)
        whole = nn.Sequential(model, nn.Flatten(0), nn.Unflatten(0, (-1, 3)), shared)
        train(whole, None if options else adam(whole.parameters()))
        found.append(list(shared.parameters()))
    assert_close(found[1], found[0], rtol=1e-9)


def test_gradients_are_never_there_together():
    peaks, x = [], torch.randn(2, 256)
    for options in ({}, {"fused_optimizer": lambda p: torch.optim.SGD(p, lr=1e-3)}):
        model = ReversibleSequential(*[linear(128) for _ in range(8)], **options)

        def step(model=model):
            model(x).sum().backward()
            model.zero_grad()

        peaks.append(peak_bytes(step))
    assert peaks[0] - peaks[1] > 0.7 * sum(p.nbytes for p in model.parameters())


def test_accumulated_gradients_are_refused():
    model = ReversibleSequential(linear(3), fused_optimizer=adam)
    model[0].block[0].weight.grad = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match=r"steps\.0\.block\.0\.weight has a gradient already"):
        model(torch.randn(2, 6))


def test_two_forwards_before_their_backwards_are_refused():
    model = ReversibleSequential(linear(3), linear(3), fused_optimizer=adam)
    first, second = model(torch.randn(2, 6)), model(torch.randn(2, 6))
    first.sum().backward()
    with pytest.raises(RuntimeError, match="was changed in place after the forward"):
        second.sum().backward()


def test_replaced_parameters_are_refused():
    model = ReversibleSequential(linear(3), fused_optimizer=adam)
    model[0].block[0].weight = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(RuntimeError, match="is another tensor than when fused_optimizer was made"):
        model(torch.randn(2, 6))
    with torch.no_grad():
        model(torch.randn(2, 6))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_steps_its_own_parameters(copied):
    """With the optimizer's state; the original stays as it is."""
    (model,) = chains([linear(3).double() for _ in range(2)], ["reversible"], fused_optimizer=adam)
    train(model, steps=2)
    twin, before = copied(model), [p.detach().clone() for p in model.parameters()]
    train(twin, steps=2)
    assert all(p.grad is None for p in twin.parameters())
    assert all(map(torch.equal, model.parameters(), before))
    train(model, steps=2)
    assert_close(list(twin.parameters()), list(model.parameters()), rtol=0)


def test_momentum_with_a_trained_first_velocity():
    found = []
    for fused in (None, adam):
        torch.manual_seed(0)
        first, blocks = nn.Linear(6, 6), [linear(6) for _ in range(3)]
        model = MomentumNet(
            blocks, init_speed=True, init_function=first, fused_optimizer=fused
        ).double()
        train(model, None if fused else adam(model.parameters()))
        found.append(list(model.parameters()))
    assert_close(found[1], found[0], rtol=1e-9)
    model.init_function.weight.grad = torch.zeros(6, 6, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"init_function\.weight has a gradient already"):
        model(torch.randn(2, 6, dtype=torch.float64))
