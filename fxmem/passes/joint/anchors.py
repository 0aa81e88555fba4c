"""Anchors: states that are kept, so that those which come back from them are near enough.

A link back rounds its state, and divides what was lost before by its scale. The error is counted in
roundings: of s = out - F it is the larger one of `out` and of the state that F reads, and one more.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from fxmem.passes.graph import tensor
from fxmem.passes.joint.bounds import least
from fxmem.passes.joint.chains import Chain, Link

# Roundings that a state may have gone through. Measured at depths 16 to 128, additive and momentum:
# so the gradient's error is at most twice that with every state kept. Of states that grow from link
# to link, which no norm holds, more is lost: in float32 1e-5 where they grow by a tenth.
BEAR = {torch.bfloat16: 12, torch.float16: 12, torch.float32: 32, torch.float64: 32}


def anchors(chain: Chain, every: int | None = None) -> set[fx.Node]:
    """Return the states of a chain that are kept, beside the last two.

    Args:
        every: keep a pair after so many links, whatever they lose, so that 1 keeps all; 0: none;
            default: as the dtype and the scales of the links require.
    """
    value = tensor(chain[0].out)
    if every == 0 or (every is None and not value.is_floating_point()):  # integers are exact
        return set()
    bear = every - 1 if every else BEAR[value.dtype]
    kept: set[fx.Node] = set()
    error = {chain[-1].out: 0.0, chain[-1].stream: 0.0}
    for link in reversed(chain):
        grown = (max(error[link.out], error[link.stream]) + 1) * (1 if every else loss(link))
        if grown > bear:
            kept.add(link.skip)
        error[link.skip] = 0.0 if grown > bear else grown
    return kept


def loss(link: Link) -> float:
    """Return by how much at most an error grows on the way back through a link."""
    scale = math.prod(min(least(step.scale), 1.0) for step in link.steps)
    return 1 / scale if scale else math.inf
