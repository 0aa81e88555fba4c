"""Which kept values no code may stand for, and why: asked by all that encode, or would."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import fx

from fxmem.passes.pair.averages import WEIGHTS, weights
from fxmem.passes.pair.eligible import why_exact
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.logits import exponents
from fxmem.passes.pair.masked import masked
from fxmem.passes.pair.ranges import ranges
from fxmem.passes.pair.unbounded import CONDITIONED, conditioned, why_unbounded
from fxmem.policy import Policy


def refusals(pair: Pair, policy: Policy) -> Callable[[Storage], str | None]:
    """Return what says why a storage must be kept as it is, None where a code may serve."""
    wide, known = _wide(pair), ranges(pair)

    @functools.cache
    def refusal(storage: Storage) -> str | None:
        why = why_exact(pair, storage, policy) or wide.get(storage.owner)
        return why or why_unbounded(pair, storage, known)

    return refusal


def _wide(pair: Pair) -> dict[fx.Node, str]:
    """Return the forward's nodes that no code serves, each with the sentence."""
    mask = "a mask may have put -inf or the lowest number in it, which no scale spans with the rest"
    found = dict.fromkeys(weights(pair), WEIGHTS) | dict.fromkeys(conditioned(pair), CONDITIONED)
    return {**found, **dict.fromkeys(masked(pair), mask), **exponents(pair)}
