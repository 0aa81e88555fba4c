"""What is done to a pair, in order: first what is kept is settled, then how, a line a step or rule.

Of the rules on kept storages a few-bit code comes first, for it also makes masks needless that are
made of the same value. Masks and places are exact and take only bools and integers, which encoding
would not. What is left of sketches is said next; and of what is then kept as it is, the parts that
are read are copied.
"""

from fxmem.passes.pair.copied import Copied
from fxmem.passes.pair.differences import hoist_differences
from fxmem.passes.pair.discrete import hoist_discrete
from fxmem.passes.pair.encode import Encode
from fxmem.passes.pair.few_bit import FewBit
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.normalised import keep_normalised
from fxmem.passes.pair.packed import MASKS, PLACES
from fxmem.passes.pair.remade import recompute_made
from fxmem.passes.pair.results import keep_results
from fxmem.passes.pair.sketched import Sketched
from fxmem.passes.pair.slopes import hoist_slopes
from fxmem.passes.pair.small import keep_small
from fxmem.passes.pair.waves import hoist_waves
from fxmem.policy import Policy

RULES = (FewBit(), MASKS, PLACES, Encode(), Sketched(), Copied())


def settle(pair: Pair, policy: Policy) -> None:
    """Settle which values are kept, before rules plan how.

    What other kept values make is dropped first, so that nothing is put in its place. What stays
    exact because it is small comes before all that asks what would be encoded. Norms come last:
    they are asked about what is left as it was.
    """
    if policy.allows("remat"):
        recompute_made(pair, policy)
        keep_results(pair, policy)
    if policy.lossy:
        keep_small(pair, policy)
        hoist_differences(pair, policy)
    if policy.allows("discrete"):
        hoist_discrete(pair, policy)
    if policy.lossy:
        hoist_slopes(pair, policy)
        hoist_waves(pair, policy)
        keep_normalised(pair, policy)
