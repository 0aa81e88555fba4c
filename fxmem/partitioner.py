"""From the joint graph to a pair that keeps less: what AOTAutograd calls a partitioner."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._functorch import config
from torch._inductor.custom_graph_pass import CustomPartitionerFn, get_hash_for_files

from fxmem import history, ops
from fxmem.passes import rule
from fxmem.passes.graph import regions
from fxmem.passes.joint.cut import cut
from fxmem.passes.joint.overwritten import keep_overwritten
from fxmem.passes.joint.regions import keep_region_outputs
from fxmem.passes.joint.reversible import reverse
from fxmem.passes.joint.seeds import keep_seeds, recompute_random
from fxmem.passes.pair.discrete import hoist_discrete
from fxmem.passes.pair.expand import expand
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.registry import RULES
from fxmem.plan import Plan, Report
from fxmem.policy import Policy

log = logging.getLogger("fxmem")
PLAN = "fxmem_plan"  # in the meta of a forward graph


class Partitioner(CustomPartitionerFn):
    """Decides what crosses from forward to backward, and how it is stored.

    Holds nothing but the policy: Inductor copies, pickles and hashes it with its configuration.
    And notes for the plan, on what was done to the graph before it was differentiated.
    """

    def __init__(self, policy: Policy, notes: tuple[str, ...] = ()) -> None:
        self.policy = policy
        self.notes = notes

    def __call__(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Split a joint graph; the arguments are AOTAutograd's."""
        pair, plan = self.partition(gm, joint_inputs, **kwargs)
        history.record(plan)
        log.debug("%s", Report((plan,)))
        expand(pair)
        pair.finish()
        return pair.forward, pair.backward

    def partition(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[Pair, Plan]:
        """Return the pair with fxmem's ops visible in it, and what was decided."""
        keep_overwritten(gm)
        keep_seeds(gm)
        if self.policy.allows("seeds"):
            recompute_random(gm)
        pair, notes = self._cut(gm, joint_inputs, **kwargs)
        if self.policy.allows("discrete"):
            notes += hoist_discrete(pair, self.policy)
        plan, decisions = rule.plan(pair, self.policy, RULES)
        rule.apply(pair, decisions)
        called = (region.meta.get(PLAN) for region in regions(pair.forward, pair.saved))
        saved = sum(nested.before - nested.after for nested in called if nested is not None)
        # AOTAutograd gives example inputs for whole graphs, and none for the regions in them.
        notes = (*(self.notes if joint_inputs else ()), *notes)
        plan = Plan(plan.entries, notes, region=not joint_inputs, nested=saved)
        pair.forward.meta[PLAN] = plan
        return pair, plan

    def _cut(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[Pair, list[str]]:
        """Cut the joint graph with its reversible chains recomputed, and without; take the less."""
        outputs = kwargs["num_fwd_outputs"]
        allowed = self.policy.allows("reversible")
        found, notes = reverse(gm, outputs) if allowed else (None, [])
        keep_region_outputs(gm, outputs)
        halves, plainly = cut(gm, joint_inputs, self.policy, **kwargs)
        plain = Pair(*halves, outputs, _static(halves[0], **kwargs))
        if found is None:
            return plain, [*notes, *plainly]
        keep_region_outputs(found.joint, outputs)
        with config.patch(cse=False):
            halves, refused = cut(found.joint, joint_inputs, self.policy, **kwargs)
        pair = Pair(*halves, outputs, _static(halves[0], **kwargs))
        if self.policy.option("reversible", "force", False) or pair.kept() < plain.kept():
            return pair, [*notes, *found.notes, *refused]
        return plain, [
            *notes,
            *plainly,
            f"reversible: not taken, for it would keep {pair.kept()} bytes, not {plain.kept()}",
        ]

    def uuid(self) -> Any:
        """Return the key under which compiled code may be reused: policy, sources, kernels."""
        return (self.policy.key(), ops.native_version(), _sources_hash())

    def __deepcopy__(self, memo: dict) -> Partitioner:
        """Return itself: it is immutable."""
        return self


def _static(forward: fx.GraphModule, **kwargs: Any) -> frozenset[str]:
    indices = set(kwargs.get("static_lifetime_input_indices") or ())
    inputs = [n.name for n in forward.graph.find_nodes(op="placeholder")]
    return frozenset(name for i, name in enumerate(inputs) if i in indices)


@functools.cache
def _sources_hash() -> bytes:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return get_hash_for_files(tuple(map(str, files)), extra=torch.__version__)
