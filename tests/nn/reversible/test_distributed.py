"""Two gloo processes: DDP's and FSDP2's gradients are those of one process with both batches."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fxmem.nn.reversible import ReversibleSequential

from .blocks import assert_close, linear
from .ranks import RANKS, run_ranks, whole


def chain(memory="reversible", **options):
    torch.manual_seed(0)
    return ReversibleSequential(*[linear(4).double() for _ in range(3)], memory=memory, **options)


def batch(rank):
    return torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


def gradients(wrapped, model, rank):
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(batch(rank)).pow(2).sum().backward()
    return [whole(p.grad) for p in model.parameters()]


def data_parallel(rank):
    model = chain()
    return gradients(DistributedDataParallel(model), model, rank)


def sharded_steps(rank):
    from torch.distributed.fsdp import fully_shard

    model = chain()
    for step in model:
        fully_shard(step)
    fully_shard(model)
    return gradients(model, model, rank)


def sharded_root(rank):
    from torch.distributed.fsdp import fully_shard

    model = chain(exact=True)
    fully_shard(model)
    return gradients(model, model, rank)


def sharded_mixed(rank):
    """Parameters and what blocks read are cast to float32, streams are so with each step."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    found = []
    for memory in ("reversible", "none"):
        model = chain(memory)
        for step in model:
            fully_shard(step, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
        fully_shard(model)
        found.append(gradients(model, model, rank))
    return found


def refusals(rank):
    """Sentences, rather than gradients that nobody finds."""
    from torch.distributed.fsdp import fully_shard

    inner = chain()
    fully_shard(inner[1].block)
    stepped = chain(fused_optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    sharded = chain(fused_optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    fully_shard(sharded)
    said = []
    for model in (inner, DistributedDataParallel(stepped), sharded):
        with pytest.raises(RuntimeError) as error:
            model(batch(rank))
        said.append(str(error.value))
    return said


JOBS = {
    job.__name__: job
    for job in (data_parallel, sharded_steps, sharded_root, sharded_mixed, refusals)
}


def work(rank, results):
    for name, job in JOBS.items():
        results[name, rank] = job(rank)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ["data_parallel", "sharded_steps", "sharded_root"])
def test_gradients_are_those_of_one_process(results, name):
    model = chain("none")
    for rank in range(RANKS):
        (model(batch(rank)).pow(2).sum() / RANKS).backward()
    wanted = [p.grad for p in model.parameters()]
    for rank in range(RANKS):
        assert_close(results[name, rank], wanted, rtol=1e-9)


def test_mixed_precision_of_fsdp(results):
    for rank in range(RANKS):
        ours, plain = results["sharded_mixed", rank]
        assert_close(ours, plain, rtol=1e-5)


def test_what_would_be_wrong_is_refused(results):
    for rank in range(RANKS):
        inner, stepped, sharded = results["refusals", rank]
        assert "block 1 (Sequential) is sharded within" in inner
        assert "before DistributedDataParallel has averaged" in stepped
        assert "FSDP2 and assignment replace parameters" in sharded
