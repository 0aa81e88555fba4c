"""Kept bytes, peak and time of several variants, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch

from fxmem.measure.heap import peak_bytes
from fxmem.measure.residuals import kept
from fxmem.measure.text import MiB, aligned
from fxmem.measure.times import Times, check_rounds, step_times


@dataclass(frozen=True)
class Variant:
    """One way to compute a loss: its module, and a call without arguments that returns the loss."""

    module: torch.nn.Module
    forward: Callable[[], torch.Tensor]

    def step(self) -> None:
        """Run forward and backward; the gradients are dropped, so that every step makes them."""
        self.forward().backward()
        self.module.zero_grad(set_to_none=True)

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers are; where there are none, that of the loss."""
        own = next(chain(self.module.parameters(), self.module.buffers()), None)
        return self.forward().device if own is None else own.device


@dataclass(frozen=True)
class Measurement:
    """A variant's kept bytes, peak bytes of a step over what was allocated before, and times."""

    name: str
    kept: int
    peak: int
    times: Times


@dataclass(frozen=True)
class Table:
    """Measurements side by side; printed aligned, time as the ratio to the first."""

    rows: tuple[Measurement, ...]

    def __str__(self) -> str:
        """Return a header and one line a variant."""
        head = ("variant", "kept MiB", "peak MiB", "step ms", "time ratio")
        body = [
            (
                row.name,
                f"{row.kept / MiB:.1f}",
                f"{row.peak / MiB:.1f}",
                f"{row.times.median * 1e3:.1f}",
                f"{row.times.ratio:.3f} ±{row.times.spread / 2:.3f}",
            )
            for row in self.rows
        ]
        return aligned([head, *body])

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return bytes, seconds and ratios by variant."""
        return {row.name: asdict(row) for row in self.rows}


def measure(variants: Mapping[str, Variant], rounds: int = 10) -> Table:
    """Return kept bytes, peak bytes and interleaved step times of several variants.

    Raises ValueError for no variant and for less than one round.
    """
    check_rounds(variants, rounds)
    steps = {name: variant.step for name, variant in variants.items()}
    device = next(iter(variants.values())).device
    memory = {
        name: (kept(v.forward).nbytes, peak_bytes(v.step, v.device)) for name, v in variants.items()
    }
    times = step_times(steps, rounds, device)
    return Table(tuple(Measurement(name, *memory[name], times[name]) for name in variants))
