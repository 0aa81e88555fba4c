"""Two gloo processes: every rank has the mean of both gradients, with codes as with eager."""

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from .decoder import Decoder
from .training import BOUNDS, compiler, eager, gradients, relative_error
from .zoo import tokens

RANKS = 2


def train(rank, file, presets, results):
    """Train one step under each preset and under eager; keep the errors."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=RANKS)
    found = {}
    for preset in (None, *presets):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = DistributedDataParallel(Decoder(dropout=0.0))
        torch.manual_seed(rank)
        (eager if preset is None else compiler(preset))(model)(**tokens()).backward()
        found[preset] = gradients(model)
    results[rank] = {p: relative_error(found[p], found[None]) for p in presets}
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no distributed")
def test_ranks_agree_with_eager(tmp_path):
    presets = ("exact", "balanced")
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        file = f"file://{tmp_path}/rendezvous"
        torch.multiprocessing.spawn(train, (file, presets, results), RANKS)
        errors = dict(results)
    assert sorted(errors) == list(range(RANKS))
    for rank in errors.values():
        assert all(rank[preset] <= BOUNDS[preset] for preset in presets)
        assert rank["balanced"] > 0
