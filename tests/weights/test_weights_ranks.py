"""The weight manager on two ranks: DistributedDataParallel and FSDP2."""

import os

import torch
import torch.distributed as dist
from torch import nn

from fxmem.weights import ExternalWeightManager

from .samples import batch, classifier


def _on_ranks(rank, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
    try:
        _replicated(rank)
        _sharded()
    finally:
        dist.destroy_process_group()


def _replicated(rank):
    """Each rank draws its own weights from its own data; the masters stay the same everywhere."""
    net = nn.parallel.DistributedDataParallel(classifier())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    draw = torch.Generator().manual_seed(rank)
    manager = ExternalWeightManager(net, stochastic=True, optimizer=optimizer, generator=draw)
    for _ in range(4):
        x, labels = batch(draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    for held in manager.held:
        drawn, masters = ([torch.empty(held.parameter.shape) for _ in range(2)] for _ in range(2))
        dist.all_gather(masters, manager.master_of(held))
        dist.all_gather(drawn, held.parameter.detach())
        assert torch.equal(*masters) and not torch.equal(*drawn)


def _sharded():
    """Whole layers and filters are what scales and maxima are of, however they are sharded."""
    from torch.distributed.fsdp import fully_shard

    for method, options in (("xnor", {"exact": True}), ("dorefa", {"bits": 2})):
        plain, sharded = classifier(), classifier()
        fully_shard(sharded)
        x, labels = batch(torch.Generator().manual_seed(3))
        for net in (plain, sharded):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            manager = ExternalWeightManager(net, method, exempt=(), **options)
            for _ in range(2):
                with manager:
                    nn.functional.cross_entropy(net(x), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                manager.clip()
            manager.quantize()
        for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(q.full_tensor(), p, rtol=1e-4, atol=1e-6)
        state = sharded.state_dict()
        for name, value in plain.state_dict().items():
            found = state[name]
            found = found.full_tensor() if hasattr(found, "full_tensor") else found
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6)


def test_two_ranks(tmp_path):
    torch.multiprocessing.spawn(_on_ranks, (tmp_path / "store",), nprocs=2)
