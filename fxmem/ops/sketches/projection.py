"""How many rows a sketch has, and of what kind it is: what a user asks for, checked."""

from __future__ import annotations

import math
from typing import NamedTuple

from .operators import KINDS, rows_of


class Projection(NamedTuple):
    """FewBit's arguments: a share of the rows or a count, and bounds of it; the kind of matrix."""

    proj_dim_ratio: float | None = None
    proj_dim: int | None = None
    proj_dim_min: int | None = None
    proj_dim_max: int | None = None
    matmul: str = "gaussian"

    def rows(self, n: int) -> int:
        """How many rows are kept of n.

        Raises ValueError where proj_dim is more than there are.
        """
        if self.proj_dim is not None and self.proj_dim > n:
            raise ValueError(
                f"proj_dim must be at most the batch, all dimensions but the last multiplied: {n}; "
                f"got {self.proj_dim}"
            )
        rows = self.proj_dim or rows_of(n, self.proj_dim_ratio)
        rows = max(rows, self.proj_dim_min) if self.proj_dim_min else rows
        rows = min(rows, self.proj_dim_max) if self.proj_dim_max else rows
        return min(rows, n)


def check(projection: Projection) -> None:
    """Raise ValueError for what no batch can have."""
    ratio, dim, low, high, kind = projection
    if kind not in KINDS:
        raise ValueError(f"matmul must be one of {', '.join(KINDS)}; got {kind!r}")
    if (ratio is None) == (dim is None):
        raise ValueError("give either proj_dim_ratio, a share of the batch, or proj_dim, a count")
    if ratio is not None and not (math.isfinite(ratio) and 0 < ratio <= 1):
        raise ValueError(f"proj_dim_ratio must be in (0, 1]; got {ratio!r}")
    for name, value in (("proj_dim", dim), ("proj_dim_min", low), ("proj_dim_max", high)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if low is not None and high is not None and low > high:
        raise ValueError(f"proj_dim_min must be at most proj_dim_max, {high}; got {low}")
