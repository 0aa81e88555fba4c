"""`fxmem.transform(gm)`: one pass in somebody else's compiler, or in none."""

from __future__ import annotations

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
    to be of floating-point values. Their gradients cannot be differentiated a second time.

    Args:
        gm: from symbolic_trace, Dynamo, torch.export (`program.module()`) or make_fx. It is left as
            it is; parameters and buffers are shared with what is returned.
        policy: a :class:`Policy`, a preset's name or a dict of options, of which the rules count:
            `gated` and `from_output`, exact, unless they are forbidden; `quantized_gradient`,
            lossy, if it is asked for, as in `{"rules": {"quantized_gradient": {"bits": 3}}}`.

    Raises:
        PolicyError: for an impossible policy.
        TypeError: for anything but a GraphModule.
    """
    from fxmem.passes.forward.nested import copied
    from fxmem.passes.forward.registry import RULES
    from fxmem.passes.forward.rewrite import rewrite

    if not isinstance(gm, fx.GraphModule):
        kind = type(gm).__name__
        raise TypeError(f"gm must be a torch.fx.GraphModule (torch.fx.symbolic_trace), got {kind}")
    policy = Policy.of(policy)
    rules = [rule for rule in RULES if policy.rules.get(rule.name, rule.exact) is not False]
    result = copied(gm)
    result.meta = {**gm.meta, PLANS: tuple(rewrite(result, rules, policy))}
    return result


def report(gm: fx.GraphModule) -> Report:
    """Return what :func:`transform` did to every activation of a graph, with its refusals.

    Bytes are what eager keeps for activations alone; those that a neighbour keeps too are free.

    Raises:
        LookupError: for what `transform` has not returned.
    """
    plans: tuple[Plan, ...] | None = getattr(gm, "meta", {}).get(PLANS)
    if plans is None:
        raise LookupError("this module carries no plan: it is not what fxmem.transform returned")
    return Report(plans, unchanged="eager, for activations")
