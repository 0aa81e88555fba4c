"""Gloo processes for a test."""

import pytest
import torch
from torch import distributed

RANKS = 2


def run_ranks(job, folder):
    """Return what `job(rank, results)` puts into `results` in each of the processes."""
    if not distributed.is_available():
        pytest.skip("starts processes with torch.distributed, which this torch is built without")
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        file = f"file://{folder}/rendezvous"
        torch.multiprocessing.spawn(_start, (job, file, results), RANKS)
        return dict(results)


def _start(rank, job, file, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=RANKS)
    job(rank, results)
    distributed.destroy_process_group()


def whole(gradient):
    """Return a gradient that may be sharded, in one piece."""
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
