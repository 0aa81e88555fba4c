"""A joint graph with sketches and without, each partitioned: what keeps the least is taken."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from torch import fx

from fxmem.compat import hint
from fxmem.ops.sketches.projection import variance_note
from fxmem.passes.graph import copied
from fxmem.passes.joint.sketches.rewrite import Site, rewrite
from fxmem.passes.joint.sketches.sites import find_sites, left_out, lost, paying
from fxmem.passes.pair.graphs import Pair
from fxmem.plan import Plan
from fxmem.policy import Policy

Partition = Callable[[fx.GraphModule, int], tuple[Pair, Plan]]


def with_sketches(
    joint: fx.GraphModule,
    policy: Policy,
    num_outputs: int,
    weights: Collection[int],
    partition: Partition,
) -> tuple[Pair, Plan]:
    """Partition a joint graph with those sketches that make the plan smaller.

    They are chosen by what the plan without them keeps for the weights alone. Where residuals may
    be lossy all are tried as well: what is left of an activation may then be a few-bit code. And
    then those alone whose inputs can no longer be recomputed from what is left.
    """
    sites, refusals = find_sites(joint, policy, num_outputs, weights)
    names = [site.product.node.name for site in sites]

    def sketched(chosen: Collection[str]) -> tuple[Pair, Plan]:
        graph = copied(joint)
        found, _ = find_sites(graph, policy, num_outputs, weights)
        taken = [site for site in found if site.product.node.name in chosen]
        noise = [_noise(site) for site in taken]
        return _noted(partition(graph, rewrite(graph, taken, num_outputs)), noise)

    if policy.option("sketch", "force", False) and sites:
        return _noted(sketched(names), refusals)
    plain = partition(copied(joint), num_outputs)
    gaining, costly = paying(plain[0], sites)
    tried = [_noted(plain, [*refusals, *costly])]
    if gaining:
        chosen = {site.product.node.name for site in gaining}
        tried.append(_noted(sketched(chosen), [*refusals, *costly]))
    if costly and (policy.lossy or policy.asks("few_bit")):
        every = sketched(names)
        tried.append(_noted(every, refusals))
        chosen = {site.product.node.name for site in lost(plain[0], every[0], sites)}
        if chosen and len(chosen) < len(names):
            tried.append(_noted(sketched(chosen), [*refusals, *left_out(sites, chosen)]))
    return min(tried, key=lambda found: found[1].after)


def _noise(site: Site) -> str:
    n, k = hint(site.rows), hint(site.kept)
    return variance_note(site.kind, f"{k} of {n} rows", k / n)


def _noted(found: tuple[Pair, Plan], notes: list[str]) -> tuple[Pair, Plan]:
    pair, plan = found
    return pair, replace(plan, notes=(*plan.notes, *dict.fromkeys(notes)))
