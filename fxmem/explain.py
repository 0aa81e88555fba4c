"""`fxmem.explain(model, *inputs)`: what is kept, where, and why, without running Inductor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from fxmem.passes.graph import copied
from fxmem.passes.pair.graphs import Pair
from fxmem.plan import Plan, Report
from fxmem.policy import Policy


def explain(
    model: Callable[..., Any], *args: Any, policy: Policy | str | dict | None = None, **kwargs: Any
) -> Report:
    """Compile a model as backend="fxmem" does, but without Inductor, and report on it.

    The model is run forward once on the inputs, so its gradients must be enabled; random state and
    buffers are put back afterwards.

    Args:
        model: an nn.Module or a function.
        args, kwargs: its inputs.
        policy: a :class:`Policy`, a preset's name or a dict of options; default: exact.

    Raises:
        PolicyError: for an impossible policy.
        ValueError: if nothing in the model requires a gradient, so that nothing is kept.
    """
    found = _Observer(Policy.of(policy))
    with _untouched(model), torch._dynamo.config.patch(recompile_limit=2**16):
        torch.compile(model, backend=found)(*args, **kwargs)
    if not found.plans:
        raise ValueError(
            "nothing is kept: no output of the model depends on what requires a gradient"
        )
    return Report(tuple(found.plans), {"inductor": found.inductor}, tuple(found.graphs))


class _Observer:
    """A Dynamo backend that partitions, remembers what came of it, and runs the graphs eagerly."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.plans: list[Plan] = []
        self.graphs: list[tuple[fx.GraphModule, fx.GraphModule]] = []
        self.inductor = 0

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        from functorch.compile import nop
        from torch._dynamo.backends.common import aot_autograd
        from torch._inductor.decomposition import select_decomp_table

        compiler = aot_autograd(
            fw_compiler=nop, decompositions=select_decomp_table, partition_fn=self.partition
        )
        return compiler(gm, example_inputs)

    def partition(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Run Inductor's joint passes and fxmem's partitioner, and keep what they made."""
        from torch._inductor import config
        from torch._inductor.compile_fx import partition_fn
        from torch._inductor.virtualized import V

        fake_mode = detect_fake_mode(joint_inputs)
        with V.set_fake_mode(fake_mode), config.patch(custom_partitioner_fn=_observing(self)):
            return partition_fn(gm, joint_inputs, **kwargs)


def _observing(found: _Observer) -> Any:
    from fxmem.compat import min_cut_rematerialization_partition
    from fxmem.partitioner import Partitioner

    class Observing(Partitioner):
        def __call__(
            self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
        ) -> tuple[fx.GraphModule, fx.GraphModule]:
            plain = copied(gm)
            halves = min_cut_rematerialization_partition(plain, joint_inputs, **kwargs)
            default = Pair(*halves, kwargs["num_fwd_outputs"])
            found.inductor += sum(storage.nbytes for storage in default.storages())
            pair, plan = self.partition(gm, joint_inputs, **kwargs)
            found.plans.append(plan)
            found.graphs.append((pair.forward, pair.backward))
            return pair.forward, pair.backward

    return Observing(found.policy)


@contextmanager
def _untouched(model: Callable[..., Any]) -> Iterator[None]:
    """Put buffers and random state back as they were."""
    buffers = list(model.buffers()) if isinstance(model, torch.nn.Module) else []
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
