"""A Dynamo backend that partitions and remembers what came of it, and compiles nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from functorch.compile import nop
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor import config
from torch._inductor.compile_fx import partition_fn
from torch._inductor.virtualized import V

from fxmem.compat import eager_decompositions, min_cut_rematerialization_partition
from fxmem.partitioner import Partitioner
from fxmem.passes.forward.asked import rewrite_asked
from fxmem.passes.graph import copied, regions
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.spared import spared
from fxmem.passes.paths import shorten_paths
from fxmem.plan import Plan
from fxmem.policy import Policy

MORE = "fxmem_inductor_keeps_more"  # bytes, in the meta of a forward graph
Halves = tuple[fx.GraphModule, fx.GraphModule]


class Observer:
    """Partitions as backend="fxmem" does, with Inductor's joint passes, and runs graphs eagerly.

    Attributes:
        plans, graphs: the plan and the rewritten halves of each graph seen, in order.
        inductor: bytes that Inductor's own cut keeps.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.plans: list[Plan] = []
        self.graphs: list[Halves] = []
        self.inductor = 0
        self.rewritten = Plan()

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a Dynamo graph to itself, but for the rules that are asked for by name."""
        shorten_paths(gm, gm)
        self.rewritten = rewrite_asked(gm, self.policy)
        compiler = aot_autograd(
            fw_compiler=nop, decompositions=eager_decompositions, partition_fn=self._partition
        )
        return compiler(gm, example_inputs)

    def _partition(self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any) -> Halves:
        fake_mode = detect_fake_mode(joint_inputs)
        patched = config.patch(custom_partitioner_fn=_Observing(self))
        with V.set_fake_mode(fake_mode), patched:
            return partition_fn(gm, joint_inputs, **kwargs)


class _Observing(Partitioner):
    """The partitioner, telling an observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer.policy, observer.rewritten)
        self.observer = observer

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any) -> Halves:
        halves = min_cut_rematerialization_partition(copied(gm), joint_inputs, **kwargs)
        default = Pair(*halves, kwargs["num_fwd_outputs"])
        inductor = sum(storage.nbytes for storage in default.storages())
        # The regions in it are fxmem's by now: what theirs would have been is added to them.
        inductor += sum(region.meta.get(MORE, 0) for region in regions(halves[0], default.saved))
        pair, plan = self.partition(gm, joint_inputs, **kwargs)
        pair.finish()
        plan = replace(plan, spared=spared(default, pair, plan))
        pair.forward.meta[MORE] = inductor - plan.after
        if not plan.region:
            self.observer.inductor += inductor
        self.observer.plans.append(plan)
        self.observer.graphs.append((pair.forward, pair.backward))
        return pair.forward, pair.backward
