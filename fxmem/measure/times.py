"""Step times that a busy machine disturbs little: interleaved, compared round by round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of a step: median, least, and the median ratio to the first variant, by rounds.

    ``spread`` is the distance between the quartiles of that ratio: what not to read into it.
    """

    median: float
    least: float
    ratio: float
    spread: float


def step_times(
    steps: Mapping[str, Callable[[], Any]], rounds: int = 10, device: torch.device | str = "cpu"
) -> dict[str, Times]:
    """Return the times of several steps, interleaved: every round runs each once, in turn first.

    Each runs once beforehand. On CUDA the clock is wall time between synchronisations. On CPU it is
    the process's processor time, which a busy machine disturbs least; with several threads wall
    time, for processor time would count threads that wait for each other.

    Raises ValueError for no step and for less than one round.
    """
    check_rounds(steps, rounds)
    clock = _clock(torch.device(device))
    names = list(steps)
    seconds = {name: [] for name in names}
    for name in names:
        steps[name]()
    for turn in range(rounds):
        gc.collect()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            steps[name]()
            seconds[name].append(clock() - start)
    return {name: _times(seconds[name], seconds[names[0]]) for name in names}


def check_rounds(steps: Mapping[str, Any], rounds: int) -> None:
    """Raise ValueError where there would be no time to tell."""
    if not steps:
        raise ValueError("there is nothing to measure: give at least one variant by its name")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")


def _times(own: list[float], first: list[float]) -> Times:
    ratios = [a / b for a, b in zip(own, first, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Times(statistics.median(own), min(own), statistics.median(ratios), high - low)


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type == "cuda":
        return _synchronised
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
