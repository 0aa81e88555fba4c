"""Two gloo processes train a BERT with reversible layers, under DDP and with layers sharded."""

import pytest
import torch
from models.zoo import ZOO
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from fxmem.nn.reversible import to_momentum

RANKS = 2


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


def work(rank, file, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=RANKS)
    for name, wrap in WRAPPERS.items():
        for exact in (False, True):
            model = build("reversible", exact)
            wrapped = wrap(model)
            for _ in range(2):
                wrapped.zero_grad()
                wrapped(**batch(rank)).loss.backward()
            results[name, exact, rank] = [whole(p.grad) for p in model.parameters()]
    distributed.destroy_process_group()


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not distributed.is_available():
        pytest.skip("this torch has no distributed")
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        shared = manager.dict()
        file = f"file://{tmp_path_factory.mktemp('ranks')}/rendezvous"
        torch.multiprocessing.spawn(work, (file, shared), RANKS)
        return dict(shared)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_gradients_are_those_of_one_process(results, name, exact):
    model = build("none", exact)
    for rank in range(RANKS):
        (model(**batch(rank)).loss / RANKS).backward()
    for rank in range(RANKS):
        for found, parameter in zip(results[name, exact, rank], model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-12)
