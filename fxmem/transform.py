"""`fxmem.transform(gm)`: one pass in somebody else's compiler, or in none."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import fx

from fxmem.plan import Plan, Report
from fxmem.policy import Policy

PLANS = "fxmem_plans"  # in the meta of a GraphModule


def transform(
    gm: fx.GraphModule, policy: Policy | str | Mapping[str, Any] | None = None
) -> fx.GraphModule:
    """Return a graph that computes the same and keeps less of its activations for the backward.

    Activations are found by what they compute, however they are spelled: as modules, functions,
    methods or ATen operators, by hand, between casts. At a kink (relu's zero) any slope between
    the two sides' counts as the derivative. Where no tracer has noted dtypes, activations are taken
    to be of floating-point values. Their gradients cannot be differentiated a second time. A linear
    layer behind a gated pair becomes one operator with it, which reads the layer's weights: a hook
    or an adapter that is put on the layer later is not seen.

    Args:
        gm: from symbolic_trace, Dynamo, torch.export (`program.module()`) or make_fx. It is left as
            it is; parameters and buffers are shared with what is returned.
        policy: a :class:`Policy`, a preset's name or a dict of options, of which the rules count:
            `gated`, `from_output`, `norm_from_output` and `chunked_loss` (of linear layers and
            cross-entropy), exact, unless they are forbidden;
            `quantized_gradient`, lossy, and `sketch` (of linear layers' inputs), unbiased, if
            they are asked for, as in `{"rules": {"quantized_gradient": {"bits": 3}}}`; and
            `integer`, of all linear layers and convolutions but the first and the last, as in
            `{"rules": {"integer": "int8"}}` (`fxmem.integer.method_of` has the methods).

    Raises:
        PolicyError: for an impossible policy.
        TypeError: for anything but a GraphModule.
    """
    from fxmem.passes.forward.chunked_loss import NAME as LOSS
    from fxmem.passes.forward.chunked_loss import rewrite_losses
    from fxmem.passes.forward.integer import NAME as INTEGER
    from fxmem.passes.forward.integer import rewrite_layers
    from fxmem.passes.forward.nested import copied
    from fxmem.passes.forward.norms import NAME, rewrite_norms
    from fxmem.passes.forward.registry import RULES
    from fxmem.passes.forward.rewrite import rewrite
    from fxmem.passes.forward.sketched_linear import NAME as SKETCH
    from fxmem.passes.forward.sketched_linear import rewrite_linears

    if not isinstance(gm, fx.GraphModule):
        kind = type(gm).__name__
        raise TypeError(f"gm must be a torch.fx.GraphModule (torch.fx.symbolic_trace), got {kind}")
    policy = Policy.of(policy)
    rules = [rule for rule in RULES if policy.rules.get(rule.name, rule.exact) is not False]
    result = copied(gm)
    # What computes in integers keeps those, and so nothing for a neighbour.
    layers = rewrite_layers(result, policy) if policy.asks(INTEGER) else []
    linears = rewrite_linears(result, policy) if policy.asks(SKETCH) else []
    # Norms before activations, for one that keeps its output does not keep an activation's.
    norms = rewrite_norms(result) if policy.rules.get(NAME, True) is not False else []
    plans = rewrite(result, rules, policy)
    losses = rewrite_losses(result, policy) if policy.allows(LOSS) else []
    found = layers, linears, norms, plans, losses
    merged = map(_merged, itertools.zip_longest(*found, fillvalue=Plan()))
    result.meta = {**gm.meta, PLANS: tuple(merged)}
    return result


def _merged(plans: tuple[Plan, ...]) -> Plan:
    entries = (plan.entries for plan in plans)
    notes = (plan.notes for plan in plans)
    return Plan(*(tuple(itertools.chain.from_iterable(parts)) for parts in (entries, notes)))


def report(gm: fx.GraphModule) -> Report:
    """Return what :func:`transform` did to every activation and norm, with its refusals.

    Bytes are what eager keeps for these alone; those that a neighbour keeps too are free.

    Raises:
        LookupError: for what `transform` has not returned.
    """
    plans: tuple[Plan, ...] | None = getattr(gm, "meta", {}).get(PLANS)
    if plans is None:
        raise LookupError("this module carries no plan: it is not what fxmem.transform returned")
    return Report(plans, unchanged="eager, for activations and norms")
