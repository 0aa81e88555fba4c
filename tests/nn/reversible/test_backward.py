"""All ways to call autograd: parts of the graph, twice, twice differentiated, not at all."""

import pytest
import torch
from torch import nn

from fxmem.nn.reversible import ReversibleSequential

from .blocks import assert_close, chains, linear

KEPT = ("none", "reversible", "checkpoint")


def pair(**options):
    return chains([linear(3).double() for _ in range(4)], ("none", "reversible"), **options)


def x_for(**options):
    return torch.randn(2, 6, dtype=torch.float64, generator=torch.manual_seed(5), **options)


def test_autograd_grad_of_inputs_and_of_some_parameters():
    found = []
    for chain in pair():
        x = x_for().requires_grad_()
        third = list(chain[2].parameters())
        first = torch.autograd.grad(chain(x).pow(2).sum(), [x])
        some = torch.autograd.grad(chain(x).pow(2).sum(), third)
        both = torch.autograd.grad(chain(x).pow(2).sum(), [*third, x])
        assert all(p.grad is None for p in chain.parameters())
        found.append([*first, *some, *both])
    assert_close(found[1], found[0], rtol=1e-12)


def test_an_input_that_does_not_require_grad():
    found = []
    for chain in pair():
        chain(x_for()).pow(2).sum().backward()
        found.append([p.grad for p in chain.parameters()])
    assert_close(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("split_dim", [1, None])
@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_two_backwards_of_one_graph(memory, split_dim):
    model = ReversibleSequential(
        *[linear(6 // (2 if split_dim else 1)).double() for _ in range(3)],
        memory=memory,
        split_dim=split_dim,
    )
    loss = model(x_for()).pow(2).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    assert_close([p.grad for p in model.parameters()], [2 * g for g in once], rtol=1e-14)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_two_forwards_before_their_backwards():
    found = []
    for chain in pair():
        first, second = chain(x_for()), chain(3 * x_for())
        first.pow(2).sum().backward()
        second.pow(3).sum().backward()
        found.append([p.grad for p in chain.parameters()])
    assert_close(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"memory": "checkpoint"}, {"exact": True}], ids=str)
def test_a_hook_of_a_parameter_is_called_once(options):
    """Be the parameter used by one block, twice by one, or by two."""
    shared, tied = linear(3).double(), nn.Sequential(linear(3).double(), nn.Tanh())
    tied.append(tied[0])
    chain = ReversibleSequential(shared, tied, shared, split_dim=1, **options)
    chain(x_for()).pow(2).sum().backward()
    plain = {name: p.grad for name, p in chain.named_parameters()}
    chain.zero_grad()
    calls = []
    for name, p in chain.named_parameters():
        p.register_hook(lambda g, name=name: calls.append(name) or 10 * g)
    chain(x_for()).pow(2).sum().backward()
    assert sorted(calls) == sorted(plain)
    for name, p in chain.named_parameters():
        assert torch.equal(p.grad, 10 * plain[name])
    weight = next(tied.parameters())
    (found,) = torch.autograd.grad(chain(x_for()).pow(2).sum(), weight)
    assert torch.equal(found, weight.grad)


def test_half_of_the_output_is_used():
    found = []
    for chain in pair():
        chain(x_for())[:, :3].sum().backward()
        found.append([p.grad for p in chain.parameters()])
    assert_close(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_second_derivatives_are_refused(memory):
    x = x_for().requires_grad_()
    model = ReversibleSequential(linear(3).double(), linear(3).double(), memory=memory)
    with pytest.raises(RuntimeError, match=r"create_graph=True.*memory='none'"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)


def test_torch_func_takes_a_chain_that_keeps_all():
    kept, reversible = pair()
    x = x_for().requires_grad_()
    (wanted,) = torch.autograd.grad(kept(x).sum(), x)
    assert_close([torch.func.grad(lambda x: kept(x).sum())(x)], [wanted], rtol=1e-12)
    with pytest.raises(RuntimeError, match=r'not by torch\.func: memory="none"'):
        torch.func.grad(lambda x: reversible(x).sum())(x)


def test_second_derivatives_with_all_kept():
    x = x_for().requires_grad_()
    model = ReversibleSequential(linear(3).double(), memory="none")
    (gradient,) = torch.autograd.grad(model(x).pow(2).sum(), x, create_graph=True)
    gradient.pow(2).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("options", [{}, {"exact": True}])
def test_without_gradients(mode, options):
    plain, model, _ = chains([linear(3) for _ in range(3)], KEPT, **options)
    x = torch.randn(2, 6)
    with mode():
        found = model(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, plain(x).detach(), rtol=0, atol=0)


def test_frozen_blocks_give_the_input_its_gradient():
    found = []
    for chain in pair():
        chain[1].requires_grad_(False)
        x = x_for().requires_grad_()
        chain(x).pow(2).sum().backward()
        assert chain[1].block[0].weight.grad is None
        found.append([x.grad, chain[0].block[0].weight.grad])
    assert_close(found[1], found[0], rtol=1e-12)


def test_a_parameter_changed_in_between_is_said():
    model = ReversibleSequential(linear(3), linear(3))
    loss = model(torch.randn(2, 6)).sum()
    with torch.no_grad():
        model[1].block[0].weight.add_(1)
    with pytest.raises(RuntimeError, match=r"a parameter of block 1 \(Sequential\) was changed"):
        loss.backward()


def test_a_frozen_parameter_changed_in_between_is_said():
    model = ReversibleSequential(linear(3), linear(3).requires_grad_(False))
    loss = model(torch.randn(2, 6)).sum()
    model[1].block[0].weight.add_(1)
    with pytest.raises(RuntimeError, match=r"a parameter of block 1 \(Sequential\) was changed"):
        loss.backward()


def test_an_output_changed_in_place_is_said():
    model = ReversibleSequential(linear(3))
    out = model(torch.randn(2, 6))
    out.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_block_without_parameters():
    found = []
    for memory in KEPT:
        model = ReversibleSequential(torch.sin, nn.Tanh(), memory=memory)
        x = x_for().requires_grad_()
        model(x).pow(2).sum().backward()
        found.append([x.grad])
    assert_close(found[1], found[0], rtol=1e-12)
    assert_close(found[2], found[0], rtol=1e-12)
