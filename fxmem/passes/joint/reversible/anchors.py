"""Anchors: states that are kept, so that those which come back from them are near enough.

A link back rounds its state, and divides what was lost before by its scale. The error is counted in
roundings: of s = out - F it is the larger one of `out` and of the state that F reads, and one more.
Where states may grow from link to link, it is theirs that are larger.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from fxmem.passes.graph import tensor
from fxmem.passes.joint.reversible.bounds import least
from fxmem.passes.joint.reversible.chains import Chain, Link
from fxmem.passes.joint.reversible.growth import growth

# Roundings that a state may have gone through. Measured at depths 16 to 128, additive and momentum:
# so the gradient's error is at most twice that with every state kept; in half precision 1.1 times,
# where the errors of both vary by more from seed to seed.
BEAR = {torch.bfloat16: 12, torch.float16: 12, torch.float32: 32, torch.float64: 32}
# Of states that are carried in a wider dtype than they are read in: a sixteenth of its rounding.
BEAR_WIDENED = {torch.bfloat16: 2**11, torch.float16: 2**8, torch.float32: 2**25}
WIDENED = "fxmem_widened"  # in the meta of such a state: what it is read as


def anchors(
    chain: Chain, every: int | None = None, widened: torch.dtype | None = None
) -> set[fx.Node]:
    """Return the states of a chain that are kept, beside the last two.

    Args:
        every: keep a pair after so many links, whatever they lose, so that 1 keeps all; 0: none;
            default: as the dtype, the scales of the links and their branches require.
        widened: what the states are read as, if they were carried in a wider dtype.
    """
    out = chain[-1].out
    if every == 0 or (every is None and not tensor(out).is_floating_point()):  # integers are exact
        return set()
    widened = widened or out.meta.get(WIDENED)
    bear = every - 1 if every else BEAR_WIDENED.get(widened, BEAR[tensor(out).dtype])
    grown = {} if every else growth(chain)
    kept: set[fx.Node] = set()
    error = {out: 0.0, chain[-1].stream: 0.0}
    again = 1.0
    for link in reversed(chain):
        lost = 1.0 if every else loss(link)
        found = _error(link, error, lost, grown.get(link.out, 1.0))
        is_kept = found * again > bear
        if is_kept:
            kept.add(link.skip)
        error[link.skip] = 0.0 if is_kept else found
        # Beside a state that is kept the other stream's has its error still. Where that would have
        # the next one kept at once, as in momentum, which scales but the velocity, it is kept, too.
        again = lost if is_kept and lost <= bear else 1.0
    return kept


def _error(link: Link, error: dict[fx.Node, float], loss: float, grown: float) -> float:
    """Return the error of the state before a link, whose own size each is relative to."""
    return (max(error[link.out] * grown, error[link.stream]) + grown) * grown * loss


def loss(link: Link) -> float:
    """Return by how much at most an error grows on the way back through a link."""
    scale = math.prod(min(least(step.scale), 1.0) for step in link.steps)
    return 1 / scale if scale else math.inf


def causes(chain: Chain) -> str:
    """Say why states of a chain are kept beside what rounding alone requires; "" if none are."""
    if not tensor(chain[-1].out).is_floating_point():
        return ""
    scaled = sum(loss(link) > BEAR[torch.float32] for link in chain)
    loose = sum(factor > 1 for factor in growth(chain).values())
    found = [f"{scaled} links scale by what may be next to nothing"] if scaled else []
    found += [f"{loose} branches have no norm that would hold what they add"] if loose else []
    return f": {' and '.join(found)}, as far as their operators tell" if found else ""
