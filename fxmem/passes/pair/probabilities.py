"""The probabilities of a softmax are kept in place of its logits, where nothing else reads these.

The cut may keep attention's logits, and the backward make the probabilities of them again. Those
take as many bytes; the largest and the sum of each row are then not needed; and an error in a code
of them stays in proportion to them, while an error in the logits is exponentiated: of logits with a
standard deviation of 1, 2, 4 or 8 codes of 4 bits cost 12, 20, 46 and 201 % of the gradient of one
attention, of 8 bits .8, 1.2, 2.9 and 10 %; codes of the probabilities 11, 21, 47 and 85 %, and 1.0,
1.6, 1.7 and 1.6 %.
"""

from __future__ import annotations

import math

from fxmem.passes.graph import from_tangents, nbytes
from fxmem.passes.pair.eligible import why_exact, why_shared
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.hoist import passed
from fxmem.passes.pair.sensitivity import is_probability
from fxmem.policy import Policy


def keep_probabilities(pair: Pair, policy: Policy) -> None:
    """Keep what a softmax makes of a kept value, where it is no larger and all that is read.

    Encoded it is no larger where its dtype is.
    """
    own = {n.name: n for n in pair.forward.graph.nodes if is_probability(n)}
    tainted = from_tangents(pair.backward.graph)
    found = []
    for storage in pair.storages() if own else ():
        if why_shared(pair, storage) is None:
            coded = policy.lossy and why_exact(pair, storage, policy) is None
            most = math.inf if coded else storage.nbytes
            ways = [n for n in passed(pair, storage, tainted) if n.name in own]
            found += [n for n in ways if nbytes(n) <= most][-1:]
    for node in dict.fromkeys(found):
        node.replace_all_uses_with(pair.keep(own[node.name]))
    if found:
        pair.prune()
