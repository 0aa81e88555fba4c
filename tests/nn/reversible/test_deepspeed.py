"""ZeRO-1 of DeepSpeed, where it is installed: the training of one process with both batches."""

import os
import sys

import pytest
import torch

from .blocks import assert_close
from .ranks import RANKS
from .test_distributed import batch, chain

pytest.importorskip("deepspeed", reason="deepspeed is not installed")
CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_optimization": {"stage": 1},
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": 1e9,  # by default it clips to a norm of 1
}


def work(rank, port, results):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu")
    import deepspeed

    # It would compile an operator for shared memory first, which takes minutes.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo")
    model = chain().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)
    for _ in range(2):
        engine.backward(engine(batch(rank).float()).pow(2).sum())
        engine.step()
    results[rank] = [p.detach().clone() for p in model.parameters()]
    torch.distributed.barrier()


@pytest.mark.filterwarnings("ignore")
def test_parameters_are_those_of_one_process():
    model = chain("none").float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for rank in range(RANKS):
            (model(batch(rank).float()).pow(2).sum() / RANKS).backward()
        optimizer.step()
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(work, (29571, results), RANKS)
        for rank in range(RANKS):
            assert_close(results[rank], list(model.parameters()))
