"""What is rewritten in a graph that is about to be compiled: losses, and what is asked for."""

from __future__ import annotations

from collections import Counter

from torch import fx

from fxmem.passes.forward import chunked_loss, integer
from fxmem.passes.forward.norms.rewrite import NAME, noted
from fxmem.passes.forward.registry import RULES
from fxmem.passes.forward.rewrite import rewrite
from fxmem.plan import Plan, Refusal, Site, weakest
from fxmem.policy import Policy


def rewrite_asked(gm: fx.GraphModule, policy: Policy, trains: bool = True) -> Plan:
    """Rewrite a graph's losses, and its activations by the rules that `policy` asks for.

    Where nothing is trained, only what a model was trained with and must compute there too:
    integers.

    Returns: notes, in a sentence each what became of them, beside what eager keeps for them, and
    the weakest guarantee. What a compiler's cut would have kept is another matter: `fxmem.explain`
    has that.
    """
    layers = integer.rewrite_layers(gm, policy) if policy.asks(integer.NAME) else []
    entries = [entry for plan in layers for entry in plan.entries]
    if not trains:
        return _noted(entries)
    notes = tuple(noted(gm)) if policy.asks(NAME) else ()
    notes += tuple(note for plan in layers for note in plan.notes)
    entries += _losses(gm, policy)
    rules = [rule for rule in RULES if policy.allows(rule.name)]
    # To look for activations takes time.
    plans = rewrite(gm, rules, policy) if rules else []
    return _noted([*entries, *(entry for plan in plans for entry in plan.entries)], notes)


def _noted(entries: list[Site | Refusal], notes: tuple[str, ...] = ()) -> Plan:
    counts = Counter(
        f"{e.residual.op}: {f'{e.rule}, ' if isinstance(e, Site) else ''}{e.action}"
        for e in entries
    )
    notes += tuple(f"{count} x {sentence}" for sentence, count in counts.items())
    return Plan(notes=notes, rewritten=weakest(e.guarantee for e in entries))


def _losses(gm: fx.GraphModule, policy: Policy) -> list[Site | Refusal]:
    """Rewrite the losses; return those worth a word."""
    if not policy.allows(chunked_loss.NAME):
        return []
    entries = [e for plan in chunked_loss.rewrite_losses(gm, policy) for e in plan.entries]
    return [entry for entry in entries if entry.residual.nbytes >= policy.min_bytes]
