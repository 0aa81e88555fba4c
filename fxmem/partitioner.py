"""From the joint graph to a pair that keeps less: what AOTAutograd calls a partitioner."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._functorch import config
from torch._inductor.custom_graph_pass import CustomPartitionerFn, get_hash_for_files

from fxmem import history, ops
from fxmem.compat import may_recompute
from fxmem.passes import rule
from fxmem.passes.graph import copied, regions
from fxmem.passes.joint.codes import join_codes, recomputable, split_codes
from fxmem.passes.joint.copies import COPIES, recompute_copies
from fxmem.passes.joint.cut import budget_of, cut
from fxmem.passes.joint.inputs import recompute_integers
from fxmem.passes.joint.overwritten import keep_overwritten
from fxmem.passes.joint.parameters import static_inputs
from fxmem.passes.joint.regions import keep_region_outputs
from fxmem.passes.joint.reversible.reverse import NO_CHAIN, Reversed, keep_sources, reverse
from fxmem.passes.joint.seeds import keep_seeds, recompute_random
from fxmem.passes.joint.sketches.priced import with_sketches
from fxmem.passes.joint.sketches.rewrite import release
from fxmem.passes.joint.sketches.shared import share_sketches
from fxmem.passes.joint.unread import forget_unread
from fxmem.passes.pair.expand import expand
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.hoist import moved
from fxmem.passes.registry import RULES, settle
from fxmem.plan import Plan, Report
from fxmem.policy import Policy

log = logging.getLogger("fxmem")
PLAN = "fxmem_plan"  # in the meta of a forward graph
LESS = 0.99  # what is recomputed from farther must save that much


class Candidate(NamedTuple):
    """One way to cut, its notes, and what is planned for it."""

    pair: Pair
    notes: list[str]
    planned: tuple[Plan, list[rule.Decision]]

    @property
    def kept(self) -> int:
        """Bytes once it is encoded."""
        return self.planned[0].after


class Partitioner(CustomPartitionerFn):
    """Decides what crosses from forward to backward, and how it is stored.

    Holds nothing but the policy: Inductor copies, pickles and hashes it with its configuration.
    And the plan of what was done to the graph before it was differentiated; and whether
    it may set torch's `donated_buffer`, which is then reset by whoever made it.
    """

    def __init__(
        self, policy: Policy, rewritten: Plan | None = None, donates: bool = False
    ) -> None:
        self.policy = policy
        self.rewritten = rewritten or Plan()
        self.donates = donates

    def __call__(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Split a joint graph; the arguments are AOTAutograd's."""
        pair, plan = self.partition(gm, joint_inputs, **kwargs)
        history.record(plan)
        log.debug("%s", Report((plan,)))
        if self.donates and joint_inputs:
            config.donated_buffer = config.donated_buffer and _has_giant(pair)
        expand(pair)
        pair.finish()
        return pair.forward, pair.backward

    def partition(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[Pair, Plan]:
        """Return the pair with fxmem's ops visible in it, and what was decided."""
        static = static_inputs(gm, kwargs.get("static_lifetime_input_indices"))
        kwargs["static_lifetime_input_indices"] = static
        keep_overwritten(gm)
        keep_seeds(gm)
        forget_unread(gm)
        share_sketches(gm)
        if self.policy.allows("seeds"):
            recompute_random(gm)
        if self.policy.allows("remat"):
            split_codes(gm)
            recompute_integers(gm)
        pair, plan = self._planned(gm, joint_inputs, **kwargs)
        pair.forward.meta[PLAN] = plan
        return pair, plan

    def _planned(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[Pair, Plan]:
        if not self.policy.asks("sketch"):
            return self._once(gm, joint_inputs, **kwargs)
        outputs, weights = kwargs["num_fwd_outputs"], _weights(**kwargs)

        def partition(joint: fx.GraphModule, outputs: int) -> tuple[Pair, Plan]:
            return self._once(joint, joint_inputs, **{**kwargs, "num_fwd_outputs": outputs})

        return with_sketches(gm, self.policy, outputs, weights, partition)

    def _once(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[Pair, Plan]:
        pair, notes, (plan, decisions) = self._least(gm, joint_inputs, **kwargs)
        notes = [*notes, *moved(pair, plan)]
        rule.apply(pair, decisions)
        called = (region.meta.get(PLAN) for region in regions(pair.forward, pair.saved))
        saved = sum(nested.before - nested.after for nested in called if nested is not None)
        # AOTAutograd gives example inputs for whole graphs, and none for the regions in them.
        before = self.rewritten if joint_inputs else Plan()
        plan = replace(plan, notes=(*before.notes, *notes), rewritten=before.rewritten)
        return pair, replace(plan, region=not joint_inputs, nested=saved)

    def _least(self, gm: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any) -> Candidate:
        """Return of all ways to cut the one that keeps the least once it is encoded."""
        outputs = kwargs["num_fwd_outputs"]
        found, notes = self._reverse(gm, outputs)
        keep_region_outputs(gm, outputs)
        plain = self._plain(gm, joint_inputs, notes, **kwargs)
        if found is None:
            return plain
        keep_region_outputs(found.joint, outputs)
        with config.patch(cse=False):
            reversed_ = self._cut(found.joint, joint_inputs, [*notes, *found.notes], **kwargs)
        sizes = [plain.kept, reversed_.kept]
        if self.policy.option("reversible", "force", False) or sizes[1] < sizes[0]:
            return reversed_
        why = (
            f"reversible: not taken, for it would keep {sizes[1]} bytes, not {sizes[0]}{found.why}"
        )
        return plain._replace(notes=[*plain.notes, why])

    def _plain(
        self, gm: fx.GraphModule, joint_inputs: Sequence[Any], notes: list[str], **kwargs: Any
    ) -> Candidate:
        """Cut with and without recomputing what reads a value long after others have."""
        if not self.policy.allows("remat") or budget_of(self.policy) < 1:
            return self._cut(gm, joint_inputs, notes, **kwargs)
        near = self._cut(copied(gm), joint_inputs, notes, **kwargs)
        far = self._cut(gm, joint_inputs, notes, far=True, **kwargs)
        return far if far.kept < LESS * near.kept else near

    def _reverse(self, gm: fx.GraphModule, outputs: int) -> tuple[Reversed | None, list[str]]:
        if not self.policy.allows("reversible"):
            return None, []
        defaults = {"anchor": None, "exact": False, "keep": 0, "float64": True}
        chosen = [self.policy.option("reversible", *option) for option in defaults.items()]
        found, notes = reverse(gm, outputs, *chosen)
        if found is None and self.policy.option("reversible", "force", False):
            notes = notes or [NO_CHAIN]
        return found, notes

    def _cut(
        self,
        gm: fx.GraphModule,
        joint_inputs: Sequence[Any],
        notes: list[str],
        far: bool = False,
        **kwargs: Any,
    ) -> Candidate:
        more = recomputable(gm)
        if self.policy.allows("remat"):
            recompute_copies(gm)
            more |= COPIES
        with may_recompute(more):
            halves, refused = cut(gm, joint_inputs, self.policy, far, **kwargs)
        outputs = release(halves[0], kwargs["num_fwd_outputs"])
        pair = Pair(*halves, outputs, _static(halves[0], **kwargs))
        keep_sources(pair)
        settle(pair, self.policy)
        for half in halves:
            join_codes(half)
        return Candidate(pair, [*notes, *refused], rule.plan(pair, self.policy, RULES))

    def uuid(self) -> Any:
        """Return the key under which compiled code may be reused: policy, sources, kernels."""
        return (self.policy.key(), ops.native_version(), _sources_hash())

    def __deepcopy__(self, memo: dict) -> Partitioner:
        """Return itself: it is immutable."""
        return self


def _has_giant(pair: Pair) -> bool:
    """Whether one tensor is a quarter of all that is kept, as logits are.

    Its gradient must take its place, or the two of them are the step's peak. A buffer that is given
    away can be read no second time, though, and `retain_graph=True` is refused: so elsewhere, where
    donation lowers no peak (measured on the reference stacks), nothing is given away.
    """
    sizes = [storage.nbytes for storage in pair.storages()]
    return 4 * max(sizes, default=0) > sum(sizes)


def _weights(**kwargs: Any) -> frozenset[int]:
    """Return the indices of the inputs that are parameters or buffers."""
    return frozenset(kwargs.get("static_lifetime_input_indices") or ())


def _static(forward: fx.GraphModule, **kwargs: Any) -> frozenset[str]:
    indices = _weights(**kwargs)
    inputs = [n.name for n in forward.graph.find_nodes(op="placeholder")]
    return frozenset(name for i, name in enumerate(inputs) if i in indices)


@functools.cache
def _sources_hash() -> bytes:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return get_hash_for_files(tuple(map(str, files)), extra=torch.__version__)
