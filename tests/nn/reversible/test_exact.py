"""exact=True: the gradient of the same network with everything kept, bit for bit, at any depth."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from fxmem.measure import kept
from fxmem.nn.reversible import (
    AdditiveCoupling,
    Bijection,
    MomentumCoupling,
    MomentumNet,
    ReversibleSequential,
)

from .blocks import trained

WIDTH = 8


def block(dropout=0.1):
    """A transformer's feed-forward, of which the norm and dropout make every bit count."""
    return nn.Sequential(
        *(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(dropout)),
        nn.Linear(2 * WIDTH, WIDTH),
    )


class Attention(nn.Module):
    """Reads its stream three times, so that gradients for it are summed in the block."""

    def __init__(self):
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, dropout=0.1)

    def forward(self, x):
        return self.heads(x, self.norm(x), x, need_weights=False)[0]


def two_streams(blocks, memory, **options):
    blocks = copy.deepcopy(blocks)
    return ReversibleSequential(*blocks, split_dim=-1, memory=memory, exact=True, **options)


def momentum(blocks, memory):
    return MomentumNet(copy.deepcopy(blocks), 0.9, memory=memory, exact=True)


@pytest.mark.parametrize("depth", [16, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("chain", "width"), [(two_streams, 2 * WIDTH), (momentum, WIDTH)])
def test_gradients_are_those_of_keeping_everything(chain, width, dtype, depth):
    blocks = [block() for _ in range(depth)]
    x = torch.randn(3, 5, width).to(dtype)
    everything, nothing = (
        trained(chain(blocks, memory).to(dtype), x) for memory in ("none", "reversible")
    )
    assert all(map(torch.equal, nothing, everything))
    assert all(float(gradient.abs().sum()) > 0 for gradient in nothing[1:3])


@pytest.mark.parametrize("memory", ["checkpoint", "reversible"])
def test_blocks_that_read_their_stream_several_times(memory):
    blocks = [block() if k % 2 else Attention() for k in range(8)]
    for chain, width in ((two_streams, 2 * WIDTH), (momentum, WIDTH)):
        x = torch.randn(3, 5, width)
        everything, nothing = (trained(chain(blocks, m), x) for m in ("none", memory))
        assert all(map(torch.equal, nothing, everything))


@pytest.mark.parametrize(("chain", "width"), [(two_streams, 2 * WIDTH), (momentum, WIDTH)])
def test_two_backwards_of_one_forward(chain, width):
    model = chain([block() for _ in range(6)], "reversible")
    x = torch.randn(4, width, requires_grad=True)
    loss = model(x).square().sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("exact", [False, True])
def test_momentum_under_autocast(exact):
    blocks, first = [block(0.0) for _ in range(4)], nn.Linear(WIDTH, WIDTH)
    x, results = torch.randn(4, WIDTH), []
    for memory in ("none", "reversible"):
        model = MomentumNet(
            copy.deepcopy(blocks), 0.9, True, copy.deepcopy(first), memory=memory, exact=exact
        )
        with torch.autocast("cpu", torch.bfloat16):
            results.append(trained(model, x))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) or not exact
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def test_momentum_as_a_coupling():
    blocks, x = [block() for _ in range(8)], torch.randn(3, 5, 2 * WIDTH)
    everything, nothing = (
        trained(two_streams(blocks, memory, coupling=MomentumCoupling(0.9)), x)
        for memory in ("none", "reversible")
    )
    assert all(map(torch.equal, nothing, everything))


def test_bijections_between_stages():
    """i-RevNet's squeezing moves integers as it moves floats."""

    def conv(channels):
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh())

    squeeze = Bijection(
        partial(nn.functional.pixel_unshuffle, downscale_factor=2),
        partial(nn.functional.pixel_shuffle, upscale_factor=2),
    )
    blocks = [conv(2), conv(2), nn.Identity(), conv(8), conv(8)]
    add = AdditiveCoupling()
    couplings = [add, add, squeeze, add, add]
    results = []
    for memory in ("none", "reversible"):
        model = ReversibleSequential(
            *copy.deepcopy(blocks), split_dim=1, coupling=couplings, memory=memory, exact=True
        )
        torch.manual_seed(1)
        results.append(trained(model, torch.randn(2, 4, 8, 8)))
    assert results[0][0].shape == (2, 16, 4, 4)
    assert all(map(torch.equal, *results))


def test_streams_of_64_bits():
    blocks, x = [block().double() for _ in range(16)], torch.randn(3, 5, 2 * WIDTH).double()
    exact = trained(two_streams(blocks, "reversible"), x)
    float64 = trained(ReversibleSequential(*blocks, split_dim=-1, memory="none"), x)
    for one, other in zip(exact, float64, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_kept_does_not_grow():
    x = torch.randn(16, 32, 2 * WIDTH, requires_grad=True)
    sizes = []
    for depth in (4, 16):
        chain = two_streams([block(0.0) for _ in range(depth)], "reversible")
        sizes.append(kept(lambda chain=chain: chain(x).sum()).nbytes)
    everything = two_streams([block(0.0)], "none")
    a_block = kept(lambda: everything(x).sum()).nbytes
    assert (sizes[1] - sizes[0]) / 12 <= 0.01 * a_block


@pytest.mark.parametrize("memory", ["none", "checkpoint", "reversible"])
@pytest.mark.parametrize("chain", [two_streams, momentum])
def test_overflow_is_said_at_the_end_of_the_forward(chain, memory):
    class Explosion(nn.Module):
        def forward(self, x):
            return x * 1e6

    blocks = [block(), Explosion(), block()]
    width = 2 * WIDTH if chain is two_streams else WIDTH
    with pytest.raises(RuntimeError, match=r"^block 1 \(Explosion\) gives .*headroom"):
        chain(blocks, memory)(torch.randn(4, width, requires_grad=True))


# Dynamo makes an object of torch.autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("chain", [two_streams, momentum])
def test_compiled(chain):
    blocks = [block(0.0) for _ in range(3)]
    x = torch.randn(3, 5, 2 * WIDTH if chain is two_streams else WIDTH)
    model = chain(blocks, "reversible")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(trained(compiled, x), trained(model, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="beyond its fixed-point range"):
        compiled(x * float("inf"))


# Dynamo makes an object of torch.autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_graph_pass_finds_the_integers():
    """Compiled by fxmem, bytes are flat in depth, and every bit as with all states kept."""
    x, sizes, results = torch.randn(16, 8, 2 * WIDTH, requires_grad=True), [], []
    model = two_streams([block(0.0) for _ in range(8)], "reversible")
    for depth, rules in ((4, {}), (8, {}), (8, {"reversible": False})):
        torch._dynamo.reset()
        part = ReversibleSequential(
            *(model[k].block for k in range(depth)), split_dim=-1, exact=True
        )
        options = {"inner": "aot_eager", "rules": rules}
        compiled = torch.compile(part, backend="fxmem", options=options, fullgraph=True)
        sizes.append(kept(lambda compiled=compiled: compiled(x).sum()).nbytes)
        results.append(trained(compiled, x))
    assert sizes[0] == sizes[1] < sizes[2] / 4
    assert all(map(torch.equal, results[1], results[2]))
