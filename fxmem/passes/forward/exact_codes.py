"""A piecewise linear activation that keeps a tensor for itself alone keeps exact codes instead.

So few slopes as it has, one bit or two an element tell apart. It is taken where every reader is
known to keep nothing of the output: integer layers, which have codes of their own, sums, means.
"""

from __future__ import annotations

from torch import fx

from fxmem.integer.functional import OPERATORS
from fxmem.integer.methods import kept_bits
from fxmem.passes.forward.coded import exact_codes, put
from fxmem.passes.forward.dialect import is_view, op
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.rule import Match, Place
from fxmem.policy import Policy

FREE = {"add", "sub", "sum", "mean", "cat"}


class ExactCodes:
    """act(x) -> fxmem.few_bit(x), whose backward reads codes of a slope that they give exactly."""

    name = "exact_codes"

    def match(self, place: Place, policy: Policy) -> Match | None:
        """Take a piecewise linear activation whose output nothing else keeps, and be sure of it."""
        codes = exact_codes(place.activation)
        if codes is None or place.bits <= codes.bits or not _is_free(place.activation.cone.exit):
            return None
        what = f"{codes.bits}-bit codes of its slope"
        return Match(what, place.bits, codes.bits, "exact", recipe=codes)

    def apply(self, graph: fx.Graph, place: Place, match: Match) -> None:
        """Put the operator where the activation ends."""
        put(graph, place.activation, match.recipe)


def _is_free(value: fx.Node) -> bool:
    """Whether nobody who reads a value, or a view of it, keeps it."""
    return all(_keeps_nothing(user) for user in readers(value))


def _keeps_nothing(user: fx.Node) -> bool:
    if user.target in OPERATORS:
        return kept_bits(user.args[-1]) is not None
    return op(user) in FREE or (is_view(user) and _is_free(user))
