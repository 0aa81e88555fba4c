"""Rules on the pair of graphs after the cut: how is it kept?

The one registry of rules on kept storages. Masks come first: they are exact and take only bools,
which nothing else would.
"""

from fxmem.passes.pair.encode import Encode
from fxmem.passes.pair.masks import Masks

RULES = (Masks(), Encode())
