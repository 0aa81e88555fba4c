"""What a block leaves behind with a gradient: an auxiliary loss on an attribute, in a list."""

import gc
import weakref

import pytest
import torch
from torch import nn

from fxmem.nn.reversible import MomentumNet, ReversibleSequential, to_reversible

from .blocks import assert_close, chains, linear, trained

KEPT = ("none", "reversible", "checkpoint")


class Routed(nn.Module):
    """It leaves a loss of what it reads, gives and is given on itself."""

    def __init__(self, width=3):
        super().__init__()
        self.linear, self.gate = linear(width), nn.Linear(width, 2)
        self.loss = None

    def forward(self, x, scale=None):
        y = self.linear(x if scale is None else x * scale)
        self.loss = self.gate(x).softmax(-1).pow(2).sum() + y.pow(3).mean()
        return y


class Losses(nn.Module):
    """The output of a chain, with its blocks' losses as part of it."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x, **arguments):
        out = self.chain(x, **arguments).sum(1)
        return torch.cat([out, *(step.block.loss[None] for step in self.chain)])


def x_for(width=6):
    return torch.randn(4, width, dtype=torch.float64, generator=torch.manual_seed(5))


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"compensate": 4}])
def test_losses_of_all_blocks(options):
    plain, *others = chains([Routed().double() for _ in range(4)], KEPT, **options)
    wanted = trained(Losses(plain), x_for())
    for other in others:
        assert_close(trained(Losses(other), x_for()), wanted, rtol=1e-12)


def test_a_loss_of_an_argument():
    plain, *others = chains([Routed().double() for _ in range(3)], KEPT)
    scale = torch.rand(4, 1, dtype=torch.float64)
    wanted = trained(Losses(plain), x_for(), scale=scale)
    for other in others:
        assert_close(trained(Losses(other), x_for(), scale=scale), wanted, rtol=1e-12)


def test_losses_of_a_momentum_network():
    blocks = [Routed(6).double() for _ in range(4)]
    plain = MomentumNet(blocks, memory="none", exact=True)
    wanted = trained(Losses(plain), x_for())
    assert_close(trained(Losses(MomentumNet(blocks)), x_for()), wanted, rtol=1e-12)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_the_gradient_of_the_input_alone(memory):
    """Of the losses autograd goes only through what leads there."""
    found = []
    for chain in chains([Routed().double() for _ in range(3)], ("none", memory)):
        x = x_for().requires_grad_()
        found.append(torch.autograd.grad(Losses(chain)(x).pow(2).sum(), x))
    assert_close(found[1], found[0], rtol=1e-12)


def test_losses_of_converted_layers():
    grads = []
    for memory in KEPT:
        torch.manual_seed(0)
        model = nn.Sequential(*[Routed(6) for _ in range(4)]).double()
        to_reversible(model, "", memory=memory, residual=False, exact=True)
        loss = model(x_for()).pow(2).sum() + sum(layer.loss for layer in model)
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert_close(grads[1], grads[0], rtol=1e-12)
    assert_close(grads[2], grads[0], rtol=1e-12)


def test_a_loss_of_converted_transformers_routers():
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=31,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_local_experts=4,
        output_router_logits=True,
        router_aux_loss_coef=1.0,
        use_cache=False,
    )
    ids, grads = torch.randint(3, 30, (2, 8)), []
    for memory in KEPT:
        torch.manual_seed(1)
        model = transformers.MixtralForCausalLM(config)
        to_reversible(model, memory=memory, exact=True)
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert_close(grads[1], grads[0])
    assert_close(grads[2], grads[0])


def test_losses_alone_leave_out_the_end():
    chain = ReversibleSequential(Routed(), Routed())
    chain(torch.randn(2, 6))
    with pytest.raises(RuntimeError, match=r"of what lies within the chain alone .*auxiliary loss"):
        chain[1].block.loss.backward()


def test_what_the_second_call_left_behind_is_no_loss():
    chain = ReversibleSequential(Routed(), Routed(), memory="checkpoint")
    chain(torch.randn(2, 6)).sum().backward()
    loss = chain[1].block.gate.weight.sum() + chain[1].block.loss
    with pytest.raises(RuntimeError, match=r"second time|left behind when it was computed again"):
        loss.backward()


def test_the_second_call_leaves_nothing_that_can_be_differentiated():
    """A loss that shares nothing with the output: autograd itself would not say a word."""

    class Apart(nn.Linear):
        def forward(self, x):
            self.loss = x.sum()
            return super().forward(x)

    chain = ReversibleSequential(Apart(3, 3), Apart(3, 3))
    chain(torch.randn(2, 6)).sum().backward()
    with pytest.raises(RuntimeError, match=r"block 1 \(Apart\) left behind when it was computed"):
        chain[1].block.loss.backward()


def test_what_is_left_behind_is_all_that_is_kept():
    alive = []

    class Watched(nn.Linear):
        def forward(self, x):
            hidden = super().forward(x).sigmoid()
            alive.append(weakref.ref(hidden))
            return hidden * 2

    out = ReversibleSequential(Watched(3, 3), Watched(3, 3))(torch.randn(2, 6))
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    out.sum().backward()
