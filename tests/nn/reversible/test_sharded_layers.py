"""Two gloo processes train a BERT with reversible layers, under DDP and with layers sharded."""

import pytest
import torch
from models.zoo import ZOO
from torch.nn.parallel import DistributedDataParallel

from fxmem.nn.reversible import to_momentum

from .ranks import RANKS, run_ranks, whole


def build(memory, exact):
    torch.manual_seed(0)
    model = ZOO["bert"].build(num_hidden_layers=3).double()
    to_momentum(model, memory=memory, exact=exact)
    return model


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(3, 200, (2, 12), generator=generator)
    return {"input_ids": ids, "labels": ids}


def data_parallel(model):
    return DistributedDataParallel(model)


def sharded(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model.bert.encoder.layer:
        fully_shard(layer)
    return fully_shard(model)


WRAPPERS = {wrap.__name__: wrap for wrap in (data_parallel, sharded)}


def work(rank, results):
    for name, wrap in WRAPPERS.items():
        for exact in (False, True):
            model = build("reversible", exact)
            wrapped = wrap(model)
            for _ in range(2):
                wrapped.zero_grad()
                wrapped(**batch(rank)).loss.backward()
            results[name, exact, rank] = [whole(p.grad) for p in model.parameters()]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_gradients_are_those_of_one_process(results, name, exact):
    model = build("none", exact)
    for rank in range(RANKS):
        (model(**batch(rank)).loss / RANKS).backward()
    for rank in range(RANKS):
        for found, parameter in zip(results[name, exact, rank], model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-12)
