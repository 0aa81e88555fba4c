"""The cut: AOTAutograd's min-cut, with bans lifted that keep values from being recomputed.

By default min-cut never recomputes a value that the backward must materialise, so it keeps both
sides of every activation and norm. Lifted, pointwise chains, norms and casts are recomputed, and
matrix products, attention, convolutions, big reductions and collectives are not.

Nor does it recompute what reads a value long after others have, as each layer reads the angles of
rotary embeddings. Whether fewer bytes are kept without that ban depends on the graph, for the
weights of the cut are not bytes alone (Mixtral 15 % fewer, Llama 4 % more): both are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx
from torch._functorch import config

from fxmem.compat import min_cut_rematerialization_partition
from fxmem.passes.graph import copied, from_tangents
from fxmem.passes.operators import is_drawn
from fxmem.policy import Policy

Halves = tuple[fx.GraphModule, fx.GraphModule]


def cut(
    joint: fx.GraphModule,
    joint_inputs: Sequence[Any],
    policy: Policy,
    far: bool = False,
    **kwargs: Any,
) -> tuple[Halves, list[str]]:
    """Split a joint graph in two.

    Args:
        far: whether to recompute what reads a value long after others have.

    Returns: the forward and the backward graph, and a sentence for what could not be granted.
    """
    lifted: dict[str, Any] = {}
    if policy.allows("remat"):
        lifted["ban_recompute_materialized_backward"] = False
    if far:
        lifted["ban_recompute_used_far_apart"] = False
    budget = budget_of(policy)
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


def budget_of(policy: Policy) -> float:
    """Return the activation memory budget: fxmem's or torch's own, whichever is less."""
    return min(policy.budget, config.activation_memory_budget)


def redrawn(backward: fx.GraphModule) -> list[fx.Node]:
    """Return the backward's nodes that repeat a random draw of the forward with fresh numbers."""
    tainted = from_tangents(backward.graph)
    return [n for n in backward.graph.nodes if n not in tainted and _draws(n)]


def _draws(node: fx.Node) -> bool:
    is_seed = str(node.target).startswith(("prims.inductor_seed.", "prims.inductor_seeds."))
    return is_seed or is_drawn(node)


def _partition(
    joint: fx.GraphModule, joint_inputs: Sequence[Any], options: dict[str, Any], kwargs: Any
) -> Halves:
    with config.patch(options):
        return min_cut_rematerialization_partition(joint, joint_inputs, **kwargs)
