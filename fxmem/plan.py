"""Sites, refusals, plans and reports: what was done to every residual, and how it is printed.

Plain records: nothing here knows a graph. A residual is a tensor kept from forward to backward.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fxmem import tables

GUARANTEES = ("exact", "unbiased", "bounded")
MiB = 2**20


def weakest(guarantees: Iterable[str]) -> str:
    """Return what may be said of all together; "exact" of none."""
    return max(guarantees, key=GUARANTEES.index, default="exact")


@dataclass(frozen=True)
class Residual:
    """A tensor that the backward needs: its name in the graph, origin, layout and bytes."""

    name: str
    module: str
    op: str
    shape: tuple[int | str, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class Site:
    """A residual that a rule applies to: what is kept instead, in how many bytes."""

    residual: Residual
    rule: str
    action: str
    nbytes: int
    guarantee: str

    def __post_init__(self) -> None:
        """Check that the guarantee is one of those that fxmem gives."""
        if self.guarantee not in GUARANTEES:
            raise ValueError(f"guarantee must be one of {GUARANTEES}, got {self.guarantee!r}")


@dataclass(frozen=True)
class Refusal:
    """A residual that is kept as it is, and the sentence that says why."""

    residual: Residual
    rule: str
    why: str

    @property
    def action(self) -> str:
        """What is printed in place of an action."""
        return f"kept: {self.why}"

    @property
    def nbytes(self) -> int:
        """Bytes kept: all of them."""
        return self.residual.nbytes

    @property
    def guarantee(self) -> str:
        """A tensor kept as it is gives its gradient exactly."""
        return "exact"


@dataclass(frozen=True)
class Plan:
    """Sites and refusals of one forward/backward pair, one entry a residual, in graph order.

    Attributes:
        region: whether the pair is a nested compiled region's. Whatever calls the region keeps, at
            every call, what the region returns for its backward.
        nested: bytes that the regions called by this pair save, by their own plans.
        rewritten: the guarantee of what was rewritten before there was a pair, which notes tell of.
        spared: what Inductor's own cut keeps and this one does not; known to `fxmem.explain` alone.
    """

    entries: tuple[Site | Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    region: bool = False
    nested: int = 0
    rewritten: str = "exact"
    spared: tuple[Site, ...] = ()

    @property
    def sites(self) -> list[Site]:
        """The residuals that a rule applies to."""
        return [e for e in self.entries if isinstance(e, Site)]

    @property
    def refusals(self) -> list[Refusal]:
        """The residuals kept as they are."""
        return [e for e in self.entries if isinstance(e, Refusal)]

    @property
    def before(self) -> int:
        """Bytes that this cut keeps when nothing is encoded."""
        return sum(e.residual.nbytes for e in self.entries) + self.nested

    @property
    def after(self) -> int:
        """Bytes kept."""
        return sum(e.nbytes for e in self.entries)


@dataclass(frozen=True, repr=False)
class Report:
    """What is kept for the backward, where it comes from and what was done about it.

    Attributes:
        plans: one :class:`Plan` for each compiled graph (a graph break makes two).
        baselines: bytes kept by others on the same model, by name ("eager", "inductor").
        graphs: (forward, backward) GraphModules, one pair a plan; empty where only plans are held.
        unchanged: what the bytes before are called in the totals.
        outside: bytes that eager mode keeps between the graphs, where torch.compile breaks them.
    """

    plans: tuple[Plan, ...]
    baselines: dict[str, int] = field(default_factory=dict)
    graphs: tuple[Any, ...] = ()
    unchanged: str = "this cut, not encoded"
    outside: int = 0

    @property
    def entries(self) -> Iterator[Site | Refusal]:
        """All residuals of all graphs, in order."""
        return (entry for plan in self.plans for entry in plan.entries)

    @property
    def kept(self) -> int:
        """Bytes kept from forward to backward."""
        return sum(plan.after for plan in self._outer) + self.outside

    @property
    def before(self) -> int:
        """Bytes that the same cut keeps when nothing is encoded."""
        return sum(plan.before for plan in self._outer) + self.outside

    @property
    def _outer(self) -> list[Plan]:
        """The plans that count: what a region keeps is kept by the graph that calls it."""
        return [plan for plan in self.plans if not plan.region] or list(self.plans)

    @property
    def guarantee(self) -> str:
        """The weakest guarantee of all residuals, and of what was rewritten."""
        given = (e.guarantee for e in self.entries)
        rewritten = (plan.rewritten for plan in self.plans)
        return weakest((*given, *rewritten))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: totals and one dict a residual."""
        return {
            "kept": self.kept,
            "before": self.before,
            "outside": self.outside,
            "guarantee": self.guarantee,
            "baselines": dict(self.baselines),
            "graphs": [
                {
                    "notes": list(plan.notes),
                    "residuals": [tables.data(e) for e in plan.entries],
                    "spared": [tables.data(e) for e in plan.spared],
                }
                for plan in self.plans
            ],
        }

    def __str__(self) -> str:
        """What keeps most comes first, in one line all that are alike; then totals."""
        lines = []
        for i, plan in enumerate(self.plans):
            title = f" graph {i}" if len(self.plans) > 1 else ""
            title += ", a nested region" if plan.region else ""
            lines += [f"fxmem{title}: {len(plan.entries)} residuals", *tables.lines(plan.entries)]
            if plan.spared:
                lines += ["not kept, where Inductor keeps them:", *tables.lines(plan.spared)]
            lines += [f"  note: {note}" for note in tables.counted(plan.notes)]
        return "\n".join([*lines, *self._totals()])

    __repr__ = __str__

    def _totals(self) -> list[str]:
        rows = [*self.baselines.items(), (self.unchanged, self.before)]
        rows.append((f"fxmem ({self.guarantee})", self.kept))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {nbytes / MiB:10.2f} MiB" for name, nbytes in rows]
        if self.outside:
            lines.insert(
                0, f"torch.compile leaves a part to eager mode: {self.outside / MiB:.2f} MiB each"
            )
        shares = (f", {self.kept / n:.0%} of {name}" for name, n in self.baselines.items() if n)
        return [*lines[:-1], lines[-1] + "".join(shares)]

    def _repr_html_(self) -> str:
        """Return a table with a bar for the bytes of each residual, before and after."""
        entries = [entry for plan in self.plans for entry in (*plan.entries, *plan.spared)]
        top = max((e.residual.nbytes for e in entries), default=1) or 1
        rows = "".join(tables.html_row(e, top) for e in entries)
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in tables.HEAD)
        notes = [f"note: {note}" for plan in self.plans for note in tables.counted(plan.notes)]
        below = html.escape("\n".join([*self._totals(), *notes]))
        return (
            f"<table style='font-size:90%'><tr>{head}</tr>{rows}</table>"
            f"<pre style='margin:0'>{below}</pre>"
        )
