"""The Rule protocol before differentiation: one way of computing an activation that keeps less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from fxmem.passes.forward.activations import Activation
from fxmem.passes.forward.eager import Kept
from fxmem.policy import Policy


@dataclass(frozen=True)
class Place:
    """An activation where it stands.

    Args:
        dtype: of its source, float32 where no tracer has said.
        kept: what eager keeps for it.
        wanted: the nodes of the graph that may want a gradient.
        source_keeper, output_keeper: another node whose backward needs its source, or its output.
        stretch: of each node, the stretch of the graph in which nothing is overwritten.
        otherwise: of the nodes that the graph itself differentiates, otherwise than once, how.
    """

    activation: Activation
    dtype: torch.dtype
    kept: Kept
    wanted: frozenset[fx.Node]
    source_keeper: fx.Node | None
    output_keeper: fx.Node | None
    stretch: Mapping[fx.Node, int]
    otherwise: Mapping[fx.Node, str]

    @property
    def bits(self) -> float:
        """Bits an element that eager keeps for the activation and for nothing else."""
        source = self.kept.source if self.source_keeper is None else 0
        output = self.kept.output if self.output_keeper is None else 0
        return source + output + self.kept.between


@dataclass(frozen=True)
class Match:
    """What a rule does with an activation.

    Args:
        before, after: bits an element that are kept without it and with it.
        reader: a reader of the activation that is rewritten with it, and with no other.
        recipe: what the rule needs to act.
    """

    action: str
    before: float
    after: float
    guarantee: str
    reader: fx.Node | None = None
    recipe: Any = None


class Rule(Protocol):
    """One way of computing activations. One rule, one file; its order is said in the registry.

    What an activation computes stays as it is.
    """

    name: str

    def match(self, place: Place, policy: Policy) -> Match | str | None:
        """Return a match, the sentence of a refusal, or None: of another kind. Change nothing."""
        ...

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Rewrite the graph."""
        ...
