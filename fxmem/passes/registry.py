"""The ordered registry of rules on kept storages: one line a rule.

A few-bit code comes first, for it also makes masks needless that are made of the same value. Masks
are exact and take only bools, which encoding would not.
"""

from fxmem.passes.pair.encode import Encode
from fxmem.passes.pair.few_bit import FewBit
from fxmem.passes.pair.masks import Masks

RULES = (FewBit(), Masks(), Encode())
