"""Kept bytes and peak do not grow with depth, and would be seen to if they did."""

import contextlib
import gc

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from fxmem.measure import kept, peak_bytes
from fxmem.nn.reversible import AffineCoupling, MomentumCoupling, ReversibleSequential

from .blocks import Conv, linear

WIDTH, BATCH = 32, 64
STREAM = BATCH * WIDTH * 4
DEPTHS = (4, 12)


def chain(depth, **options):
    out = 2 * WIDTH if isinstance(options.get("coupling"), AffineCoupling) else WIDTH
    return ReversibleSequential(*[linear(WIDTH, out) for _ in range(depth)], **options)


def kept_bytes(model, x):
    return kept(lambda: model(x)).nbytes


def slope(measured):
    """Bytes that a block more costs, over the depths measured."""
    return (measured[-1] - measured[0]) / (DEPTHS[-1] - DEPTHS[0])


@pytest.mark.parametrize(
    "options",
    [{}, {"coupling": AffineCoupling()}, {"coupling": MomentumCoupling()}, {"split_dim": None}],
    ids=["additive", "affine", "momentum", "twice"],
)
def test_kept_bytes_are_flat_in_depth(options):
    x = torch.randn(BATCH, WIDTH * (2 if options.get("split_dim", 1) else 1))
    plain = [kept_bytes(chain(d, memory="none", **options), x) for d in DEPTHS]
    ours = [kept_bytes(chain(d, **options), x) for d in DEPTHS]
    assert slope(plain) >= 2 * STREAM
    assert slope(ours) <= 0.01 * slope(plain)
    # The output, or with split_dim=None the last two streams.
    assert ours[0] == 2 * STREAM


def test_kept_bytes_of_convolutions_with_dropout_and_batch_norm():
    """A block leaves the state of the generator (5 KB) and the statistics before its update."""
    x = torch.randn(4, 16, 32, 32)
    plain, ours = (
        [
            kept_bytes(ReversibleSequential(*[Conv(8) for _ in range(d)], memory=m), x)
            for d in DEPTHS
        ]
        for m in ("none", "reversible")
    )
    assert slope(plain) >= 4 * x.nbytes / 2
    assert slope(ours) <= 0.01 * slope(plain)


def test_checkpoint_keeps_one_stream_a_block():
    x = torch.randn(BATCH, 2 * WIDTH)
    ours = [kept_bytes(chain(d, memory="checkpoint"), x) for d in DEPTHS]
    assert slope(ours) == STREAM


def test_peak_is_flat_in_depth():
    """Parameters' gradients grow with depth, so they are freed as they come."""
    peaks = {}
    for memory in ("none", "reversible"):
        peaks[memory] = []
        for depth in DEPTHS:
            model = chain(depth, memory=memory)
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(_forget)
            x = torch.randn(16 * BATCH, 2 * WIDTH)
            peaks[memory].append(peak_bytes(lambda m=model, x=x: m(x).pow(2).sum().backward()))
    assert slope(peaks["none"]) >= 2 * 16 * STREAM
    assert slope(peaks["reversible"]) <= 0.01 * slope(peaks["none"])


def _forget(parameter):
    parameter.grad = None


def test_nothing_is_left_after_the_backward():
    """Though the loss is still there, and with it the graph."""
    model, x, held = chain(4), torch.randn(BATCH, 2 * WIDTH), []

    def step():
        model.zero_grad()
        held[:] = [model(x).sum()]
        held[0].backward()

    assert kept(step).nbytes == held[0].nbytes + sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
@pytest.mark.parametrize("fails", [False, True])
def test_streams_are_freed_without_the_collector_of_cycles(memory, fails):
    """After a backward, and where a later block raises."""
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(StorageWeakRef(x.untyped_storage()))
            return torch.tanh(x)

    blocks = [linear(4), Probe(), linear(4), Probe(), *([lambda x: 1 / 0] if fails else [])]
    model, x = ReversibleSequential(*blocks, memory=memory), torch.randn(2, 8, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ZeroDivisionError):
            model(x).sum().backward()
        assert seen and all(storage.expired() for storage in seen)
    finally:
        gc.enable()


def test_the_ruler_sees_a_block_that_keeps_something():
    """What makes the tests above fail: one stream a block, held where autograd does not look."""

    class Keeper(nn.Module):
        def forward(self, x):
            self.seen = x.detach() + 1
            return torch.tanh(x)

    x = torch.randn(BATCH, 2 * WIDTH, requires_grad=True)
    ours = [kept_bytes(ReversibleSequential(*[Keeper() for _ in range(d)]), x) for d in DEPTHS]
    assert slope(ours) > 0.01 * 2 * STREAM
