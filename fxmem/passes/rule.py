"""The Rule protocol, the planner (pure) and the applier (the only one that mutates).

A rule changes how one kept storage is kept. Its two halves, in the forward and in the backward,
need not be interchangeable with what they replace: only the pair must be jointly equivalent, up
to the rule's stated guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.plan import Plan, Refusal, Site
from fxmem.policy import Policy


@dataclass(frozen=True)
class Match:
    """A storage that a rule applies to: the entry for the plan, and what the rule needs to act."""

    site: Site
    recipe: Any


class Rule(Protocol):
    """One way of keeping a storage. One rule, one file; its order is said in the registry."""

    name: str

    def match(
        self, pair: Pair, storages: Sequence[Storage], policy: Policy
    ) -> list[Match | Refusal | None]:
        """Return for each storage a match, a refusal in a sentence, or None: of another kind."""
        ...

    def apply(self, pair: Pair, storage: Storage, match: Match) -> None:
        """Rewrite both graphs."""
        ...


Decision = tuple[Rule, Storage, Match]


def plan(pair: Pair, policy: Policy, rules: Sequence[Rule]) -> tuple[Plan, list[Decision]]:
    """Ask each rule, in order, about the storages still free; the first match takes one.

    Changes nothing. Rules see the storages together, so that they may share bytes out among them.
    """
    entries: dict[Storage, Site | Refusal] = {}
    decisions: list[Decision] = []
    free = pair.storages()
    for storage in free:
        entries[storage] = Refusal(storage.record, "", "no rule keeps it in less")
    for rule in rules:
        for storage, answer in zip(free, rule.match(pair, free, policy), strict=True):
            if isinstance(answer, Match) and not policy.allows(rule.name):
                answer = Refusal(answer.site.residual, rule.name, f"rules forbid {rule.name!r}")
            if isinstance(answer, Match):
                decisions.append((rule, storage, answer))
            if answer is not None:
                entry = answer.site if isinstance(answer, Match) else answer
                entries[storage] = _after(entries[storage], entry)
        taken = {storage for _, storage, _ in decisions}
        free = [storage for storage in free if storage not in taken]
    return Plan(tuple(entries.values())), decisions


def _after(earlier: Site | Refusal, entry: Site | Refusal) -> Site | Refusal:
    """Return a rule's answer, and with it why a rule before did not take the storage."""
    if isinstance(earlier, Site) or not earlier.rule or earlier.why == getattr(entry, "why", None):
        return entry
    also = f"; {earlier.rule}: {earlier.why}"
    if isinstance(entry, Site):
        return replace(entry, action=entry.action + also)
    return replace(entry, why=entry.why + also)


def apply(pair: Pair, decisions: Sequence[Decision]) -> None:
    """Carry out what was planned; the pair is not finished."""
    for rule, storage, match in decisions:
        rule.apply(pair, storage, match)
    pair.prune()
