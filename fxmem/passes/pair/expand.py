"""The last pass of all: a codec becomes plain ATen where Inductor then fuses it to a faster kernel.

Which codecs and devices these are is measured: see `fxmem.ops.choice`.
"""

from __future__ import annotations

from fxmem.passes.pair.graphs import Pair


def expand(pair: Pair) -> None:
    """Replace fxmem ops by their decompositions where those were measured to be faster."""
