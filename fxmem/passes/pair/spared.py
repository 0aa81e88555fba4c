"""What one cut keeps and another does not, and how the other comes by it."""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import from_tangents, memory, module_path, op_name
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.plan import Plan, Site, weakest

RECOMPUTED = "recomputed in the backward"
DRAWN = "drawn again from its seed"
UNNEEDED = "the backward does without it"
Kind = tuple[str, str] | str  # an operator in a module, or a node's name


def spared(default: Pair, pair: Pair, plan: Plan) -> tuple[Site, ...]:
    """Return what `default` keeps and `pair`, which `plan` is of, does not.

    Both come from one joint graph, whose names they have but where a chain is recomputed.
    """
    nodes = {node.name: node for node in default.forward.graph.nodes}
    # What passes keep beside the cut's own has a suffix: its name may be taken in the backward.
    names = [entry.residual.name.removesuffix("_kept") for entry in plan.entries]
    kept = {memory(default.forward, nodes[name]) for name in names if name in nodes}
    free = [s for s in default.storages() if memory(default.forward, s.owner) not in kept]
    computed = _computed(pair.backward.graph)
    # Of what a value is recomputed from, all is as good as the worst of what is kept.
    worst = weakest(e.guarantee for e in plan.entries)
    hows = [_how(storage, computed) for storage in free]
    given = [worst if how == RECOMPUTED else "exact" for how in hows]
    return tuple(
        Site(storage.record, "remat", how, 0, guarantee)
        for storage, how, guarantee in zip(free, hows, given, strict=True)
    )


def _computed(backward: fx.Graph) -> dict[Kind, fx.Node]:
    """Return what the backward computes of the forward: by name, and one of a kind a module."""
    tainted = from_tangents(backward)
    calls = (n for n in backward.nodes if n.op == "call_function" and n not in tainted)
    return {key: node for node in calls for key in _keys(node)}


def _keys(node: fx.Node) -> tuple[Kind, Kind]:
    return (op_name(node), module_path(node)), node.name


def _how(storage: Storage, computed: dict[Kind, fx.Node]) -> str:
    keys = [key for node in (storage.owner, *storage.views) for key in _keys(node)]
    found = [computed[key] for key in keys if key in computed]
    if not found:
        return UNNEEDED
    made_of = [node for view in found for node in (view, *view.all_input_nodes)]
    return DRAWN if any(map(_is_random, made_of)) else RECOMPUTED


def _is_random(node: fx.Node) -> bool:
    return op_name(node).startswith("prims.inductor_rand")
