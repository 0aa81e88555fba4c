"""The ordered registry of rules on activations: one line a rule.

Exact ones come first, and of those the gated pair, which keeps the least: its factors alone.
"""

from fxmem.passes.forward.from_output import FromOutput
from fxmem.passes.forward.gated import Gated
from fxmem.passes.forward.quantized_gradient import QuantizedGradient

RULES = (Gated(), FromOutput(), QuantizedGradient())
