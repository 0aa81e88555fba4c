"""`fxmem.transform(gm)`: one pass in somebody else's compiler, or in none."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
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
    to be of floating-point values. Their gradients cannot be differentiated a second time, and what
    is returned is differentiated by backward() and torch.autograd.grad alone: in forward mode, and
    by torch.func's grad, vjp and jvp, its operators raise. A linear layer behind a gated pair
    becomes one operator with it, which reads the layer's weights: a hook or an adapter that is put
    on the layer later is not seen.

    Args:
        gm: from symbolic_trace, Dynamo, torch.export (`program.module()`) or make_fx. It is left as
            it is; parameters and buffers are shared with what is returned.
        policy: a :class:`Policy`, a preset's name or a dict of options, of which the rules count:
            `gated`, `from_output`, `exact_codes`, `norm_from_output` and `chunked_loss` (of linear
            layers and cross-entropy), exact, unless they are forbidden;
            `quantized_gradient`, lossy, and `sketch` (of linear layers' inputs), unbiased, if
            they are asked for, as in `{"rules": {"quantized_gradient": {"bits": 3}}}`; and
            `integer`, of all linear layers and convolutions but the first and the last, as in
            `{"rules": {"integer": "int8"}}` (`fxmem.integer.method_of` has the methods).

    Raises:
        PolicyError: for an impossible policy.
        TypeError: for anything but a GraphModule.
    """
    from fxmem.passes.forward.nested import copied
    from fxmem.passes.forward.registry import PASSES
    from fxmem.passes.paths import shorten_paths

    if not isinstance(gm, fx.GraphModule):
        kind, hint = type(gm).__name__, "torch.fx.symbolic_trace(model) makes one"
        if isinstance(gm, torch.export.ExportedProgram):
            hint = "program.module() is one"
        raise TypeError(f"gm must be a torch.fx.GraphModule, got {kind}: {hint}")
    policy = Policy.of(policy)
    result = copied(gm)
    shorten_paths(result, gm)
    allowed = (run for name, run in PASSES if name is None or policy.allows(name, eager=True))
    found = [run(result, policy) for run in allowed]
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
        raise LookupError(
            "this module carries no plan: it is not what fxmem.transform returned, or has been "
            "pickled since"
        )
    return Report(plans, unchanged="eager, for activations and norms")
