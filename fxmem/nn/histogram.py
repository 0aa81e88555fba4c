"""Counts of what an activation is given, in bins that are fine around zero and reach far out."""

from __future__ import annotations

import math

import numpy as np
import torch

from fxmem.activations.weight import Weight

# Bins are even in asinh(x / UNIT): as wide as 0.8 % of x, or 0.00008 around zero, up to fp16's end.
UNIT, BINS, TOP = 0.01, 4096, math.asinh(65504 / 0.01)
MOST_EDGES = 256


class Histogram:
    """Counts that grow with every tensor that is added; what is not finite is not counted."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS)
        self.given = 0

    @property
    def elements(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    def add(self, inputs: torch.Tensor) -> None:
        """Count the elements of a tensor of any shape and floating dtype."""
        self.given += inputs.numel()
        finite = inputs.detach()[inputs.isfinite()].double()
        places = torch.asinh(finite / UNIT).clamp(-TOP, TOP)
        self.counts += torch.histc(places, BINS, -TOP, TOP).cpu().numpy()

    def weight(self) -> Weight:
        """The density of what was counted, in few bins where little was counted."""
        (occupied,) = np.nonzero(self.counts)
        first, last = occupied[0], occupied[-1] + 1
        share = np.sqrt(self.counts[first:last])
        share = np.cumsum(share / share.sum() + 0.1 / len(share))
        cuts = np.searchsorted(share, np.linspace(0, share[-1], MOST_EDGES)[1:-1])
        cuts = np.unique(np.concatenate([[first], first + 1 + cuts, [last]]))
        cuts = cuts[cuts <= last]
        edges = UNIT * np.sinh(np.linspace(-TOP, TOP, BINS + 1))
        return Weight.histogram(edges[cuts], np.add.reduceat(self.counts, cuts[:-1]))
