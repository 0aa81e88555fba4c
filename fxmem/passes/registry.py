"""The ordered registry of rules on kept storages: one line a rule.

Masks come first: they are exact and take only bools, which nothing else would.
"""

from fxmem.passes.pair.encode import Encode
from fxmem.passes.pair.masks import Masks

RULES = (Masks(), Encode())
