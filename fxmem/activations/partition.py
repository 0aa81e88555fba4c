"""The optimal cut of a line of cells into intervals, by dynamic programming."""

from collections.abc import Iterator

import numpy as np


def partitions(costs: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield for 1, 2, …, `most` intervals the edges of the cheapest partition.

    `costs[j, i]` is what one interval from edge i to edge j costs, infinite unless i < j. All
    partitions are searched: O(most · n²) for n edges, with no assumption on the costs.
    """
    total = costs[:, 0]
    chosen: list[np.ndarray] = []
    yield np.array([0, len(costs) - 1])
    rows = np.arange(len(costs))
    for _ in range(most - 1):
        sums = costs + total
        before = sums.argmin(axis=1)
        total = sums[rows, before]
        chosen.append(before)
        yield _trace(chosen, len(costs) - 1)


def _trace(chosen: list[np.ndarray], end: int) -> np.ndarray:
    edges = [end]
    for before in reversed(chosen):
        edges.append(before[edges[-1]])
    return np.array([0, *reversed(edges)])
