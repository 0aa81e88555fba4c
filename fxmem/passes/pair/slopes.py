"""The slope of a sigmoid or a tanh is kept, not its output, where nothing else is read of that.

The slope is what is left of 1, or of the output's square: of outputs near 1 codes of 8 bits tell
them 1 % apart. Of sigmoids behind a bias of 4 or 6 the gradient is 5 and 49 % off by codes of the
output, and .3 and .3 % by codes of the slope, whose error stays in proportion to the slopes.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import aten, from_tangents, is_view, nbytes
from fxmem.passes.operators import is_cast, is_pointwise, uncast
from fxmem.passes.pair.codable import refusals
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.hoist import hoist, is_float, is_movable, passed
from fxmem.policy import Policy

SATURATED = (aten.sigmoid.default, aten.tanh.default)


def hoist_slopes(pair: Pair, policy: Policy) -> None:
    """Move slopes of outputs that would be encoded from the backward to the forward."""
    outputs = [storage for storage in pair.storages() if _is_saturated(storage)]
    if not outputs:
        return
    refusal, tainted = refusals(pair, policy), from_tangents(pair.backward.graph)
    found = []
    for storage in outputs:
        if refusal(storage) is None:
            slopes = [n for n in passed(pair, storage, tainted) if _is_slope(pair, n, storage)]
            found += slopes[-1:]
    for slope in dict.fromkeys(found):
        hoist(pair, slope)
    if found:
        pair.prune()


def _is_saturated(storage: Storage) -> bool:
    return uncast(storage.owner).target in SATURATED


def _is_slope(pair: Pair, node: fx.Node, output: Storage) -> bool:
    """Whether a value is more than the output in other words, and no larger."""
    computed = is_pointwise(node) and not is_cast(node) and not is_view(node)
    return computed and is_float(node) and nbytes(node) <= output.nbytes and is_movable(pair, node)
