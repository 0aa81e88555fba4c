"""Gradients of chains: right for every coupling, and the same whatever is kept."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fxmem.nn.reversible import (
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    FunctionCoupling,
    ReversibleSequential,
)

from .blocks import AVERAGE, COUPLINGS, CURVED, assert_close, chains, linear, trained


def blocks_for(name, depth=3, width=3):
    return [linear(width, 6 if name == "affine" else 3).double() for _ in range(depth)]


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("split_dim", [1, None])
@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_gradcheck(name, split_dim, memory):
    model = ReversibleSequential(
        *blocks_for(name), split_dim=split_dim, coupling=COUPLINGS[name], memory=memory
    )
    x = torch.randn(1, 6 if split_dim else 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def run(x, *values):
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *model.parameters()))


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_streams_that_are_squeezed_on_the_way(memory):
    squeeze = Bijection(lambda x: x.unflatten(1, (-1, 2)).mT, lambda x: x.mT.flatten(1))
    blocks = [linear(4), nn.Identity(), linear(2), linear(2)]
    couplings = [AdditiveCoupling(), squeeze, CURVED, AdditiveCoupling()]
    blocks = [block.double() for block in blocks]
    plain, model = chains(blocks, ("none", memory), coupling=couplings)
    x = torch.randn(3, 8, dtype=torch.float64)
    assert model(x).shape == (3, 4, 2)
    assert_close(trained(model, x), trained(plain, x), rtol=1e-12)


def test_gradients_of_lent_parameters():
    """functional_call around a chain: in the backward, the module has its own parameters again."""
    plain, model = chains(blocks_for("additive"), ("none", "reversible"))
    x, found = torch.randn(2, 6, dtype=torch.float64), []
    for chain in (plain, model):
        seed = torch.ones((), dtype=torch.float64, requires_grad=True)
        lent = {name: p.detach() * seed for name, p in chain.named_parameters()}
        functional_call(chain, lent, (x,)).pow(2).sum().backward()
        found.append([seed.grad])
    assert_close(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("split_dim", [1, -1, None])
def test_all_that_is_kept_gives_one_gradient(name, split_dim):
    plain, *others = chains(blocks_for(name), coupling=COUPLINGS[name], split_dim=split_dim)
    x = torch.randn(4, 6 if split_dim else 3, dtype=torch.float64)
    wanted = trained(plain, x)
    for other in others:
        assert_close(trained(other, x), wanted, rtol=1e-12)


def test_couplings_are_taken_in_turn():
    couplings = [AdditiveCoupling(), CURVED, (AVERAGE.function, AVERAGE.undo)]
    model = ReversibleSequential(*[linear(2) for _ in range(5)], coupling=couplings)
    assert [step.coupling for step in model] == [*couplings[:2], AVERAGE, *couplings[:2]]


def test_revlib_arguments():
    blocks = blocks_for("average")
    ours = ReversibleSequential(*copy.deepcopy(blocks), coupling=[AVERAGE, CURVED])
    theirs = ReversibleSequential(
        *copy.deepcopy(blocks),
        split_dim=1,
        coupling_forward=[AVERAGE.function, CURVED.function],
        coupling_inverse=[AVERAGE.undo, CURVED.undo],
        memory_mode=3,
        target_device="",
        fused_optimizer=None,
    )
    x = torch.randn(4, 6, dtype=torch.float64)
    assert_close(trained(theirs, x), trained(ours, x), rtol=0)


@pytest.mark.parametrize(
    ("mode", "memory"),
    [(0, "none"), (1, "checkpoint"), (2, "reversible"), ("autograd_function", "reversible")],
)
def test_revlib_memory_modes(mode, memory):
    assert ReversibleSequential(linear(2), memory_mode=mode).memory == memory


class Conditioned(nn.Module):
    """Uses all that it is given."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, shift, gain=None, power=1, extra=0.0):
        y = torch.tanh(self.linear(x) + shift)
        return y**power * (1 if gain is None else gain["of"]) + extra


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_arguments_reach_every_block_and_gradients_come_back(memory):
    plain, model = chains([Conditioned(3).double() for _ in range(4)], ("none", memory))
    layerwise = [((), {"power": i % 2 + 1}) for i in range(4)]
    found = []
    for chain in (plain, model):
        torch.manual_seed(0)
        x, base = torch.randn(2, 6).double(), torch.randn(3).double().requires_grad_()
        leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
        out = chain(x, base.exp(), gain={"of": leaf}, extra=0.5, layerwise_args_kwargs=layerwise)
        out.pow(2).sum().backward()
        found.append([out.detach(), base.grad, leaf.grad, *(p.grad for p in chain.parameters())])
    assert_close(found[1], found[0], rtol=1e-12)


def test_layerwise_arguments_differ():
    model = ReversibleSequential(*[lambda x, by: by * x for _ in range(3)])
    x = torch.randn(2, 4, dtype=torch.float64)
    a, b = x.chunk(2, 1)
    for by in (2, 3, 5):
        a, b = b, a + by * b
    found = model(x, layerwise_args_kwargs=[((by,), {}) for by in (2, 3, 5)])
    torch.testing.assert_close(found, torch.cat([a, b], 1))
    with pytest.raises(ValueError, match="has 2 entries for 3 blocks"):
        model(x, layerwise_args_kwargs=[((), {})] * 2)


class Across(nn.Module):
    """Dropout, and a linear layer over the other dimension, so that what it gives is transposed."""

    def __init__(self, length):
        super().__init__()
        self.linear = nn.Linear(length, length)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x, 0.5).mT).mT


def test_dropout_draws_in_the_order_of_memory():
    """The sum has the block's layout, and so has what is left of it: not the layout that was."""
    coupling = FunctionCoupling(lambda a, f: f + a, lambda y, f: y - f)
    plain, model = chains([Across(3) for _ in range(3)], ("none", "reversible"), coupling=coupling)
    x = torch.randn(2, 6, 5)
    assert_close(trained(model, x), trained(plain, x))


def test_shared_block():
    block = linear(3).double()
    plain, model = chains([nn.Sequential(block)] * 4, ("none", "reversible"))
    assert len(list(model.parameters())) == 4
    x = torch.randn(2, 6, dtype=torch.float64)
    assert_close(trained(model, x), trained(plain, x), rtol=1e-12)


def test_chain_is_a_module():
    model = ReversibleSequential(linear(3), linear(3), coupling=AffineCoupling(limit=2.0))
    assert len(model) == 2 and [step.block for step in model] == [s.block for s in model.steps]
    assert "memory='reversible'" in repr(model) and "block 1 (Sequential)" == model[1].label
    twin = ReversibleSequential(linear(3), linear(3), coupling=AdditiveCoupling())
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 6)
    for other in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(other(x), twin(x))


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_shapes_without_values(memory):
    """On the meta device, where nothing can be looked at."""
    model = ReversibleSequential(linear(3), linear(3), memory=memory).to("meta")
    model(torch.randn(2, 6, device="meta")).sum().backward()
    assert model[1].block[0].weight.grad.shape == (3, 3)
