"""The rules that a user asks for by name, on a graph that is about to be compiled."""

from __future__ import annotations

from collections import Counter

from torch import fx

from fxmem.passes.forward.registry import RULES
from fxmem.passes.forward.rewrite import rewrite
from fxmem.plan import Site
from fxmem.policy import Policy


def rewrite_asked(gm: fx.GraphModule, policy: Policy) -> tuple[str, ...]:
    """Rewrite a graph by the rules that `policy` asks for.

    Returns: in a sentence each what became of its activations, beside what eager keeps for them.
    What a compiler's cut would have kept is another matter: `fxmem.explain` has that.
    """
    rules = [rule for rule in RULES if policy.allows(rule.name)]
    if not rules:
        return ()
    entries = [entry for plan in rewrite(gm, rules, policy) for entry in plan.entries]
    counts = Counter(
        f"{e.residual.op}: {f'{e.rule}, ' if isinstance(e, Site) else ''}{e.action}"
        for e in entries
    )
    return tuple(f"{count} x {sentence}" for sentence, count in counts.items())
