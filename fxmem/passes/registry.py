"""The ordered registry of rules on kept storages: one line a rule.

A few-bit code comes first, for it also makes masks needless that are made of the same value. Masks
and places are exact and take only bools and integers, which encoding would not. What is left of
sketches is said next; and of what is then kept as it is, the parts that are read are copied.
"""

from fxmem.passes.pair.copied import Copied
from fxmem.passes.pair.encode import Encode
from fxmem.passes.pair.few_bit import FewBit
from fxmem.passes.pair.packed import MASKS, PLACES
from fxmem.passes.pair.sketched import Sketched

RULES = (FewBit(), MASKS, PLACES, Encode(), Sketched(), Copied())
