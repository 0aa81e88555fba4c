"""The cut: AOTAutograd's min-cut, with the ban lifted that keeps a matmul's inputs from recompute.

By default min-cut never recomputes a value that the backward must materialise, so it keeps both
sides of every activation and norm. Lifted, pointwise chains, norms and casts are recomputed, and
matrix products, attention, convolutions, big reductions and collectives are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._functorch import config

from fxmem.compat import min_cut_rematerialization_partition
from fxmem.passes.graph import copied, from_tangents
from fxmem.policy import Policy

Halves = tuple[fx.GraphModule, fx.GraphModule]


def cut(
    joint: fx.GraphModule, joint_inputs: Sequence[Any], policy: Policy, **kwargs: Any
) -> tuple[Halves, list[str]]:
    """Split a joint graph in two.

    Returns: the forward and the backward graph, and a sentence for what could not be granted.
    """
    lifted: dict[str, Any] = {}
    if policy.allows("remat"):
        lifted["ban_recompute_materialized_backward"] = False
    budget = min(policy.budget, config.activation_memory_budget)
    if budget == 1:
        return _partition(joint, joint_inputs, lifted, kwargs), []
    spare = copied(joint)
    halves = _partition(joint, joint_inputs, {**lifted, "activation_memory_budget": budget}, kwargs)
    drawn = redrawn(halves[1])
    if not drawn:
        return halves, []
    why = f"budget {budget} refused: it would draw {drawn[0].name} anew in the backward"
    return _partition(spare, joint_inputs, {**lifted, "activation_memory_budget": 1.0}, kwargs), [
        why
    ]


def redrawn(backward: fx.GraphModule) -> list[fx.Node]:
    """Return the backward's nodes that repeat a random draw of the forward with fresh numbers."""
    tainted = from_tangents(backward.graph)
    return [n for n in backward.graph.nodes if n not in tainted and _draws(n)]


def _draws(node: fx.Node) -> bool:
    is_seed = str(node.target).startswith(("prims.inductor_seed.", "prims.inductor_seeds."))
    return is_seed or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _partition(
    joint: fx.GraphModule, joint_inputs: Sequence[Any], options: dict[str, Any], kwargs: Any
) -> Halves:
    with config.patch(options):
        return min_cut_rematerialization_partition(joint, joint_inputs, **kwargs)
