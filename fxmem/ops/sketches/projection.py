"""How many rows a sketch has, and of what kind it is: what a user asks for, checked."""

from __future__ import annotations

from types import UnionType
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

    def given(self) -> list[str]:
        """What was given, as it is written in a call."""
        return [f"{k}={value!r}" for k, value in self._asdict().items() if value is not None]


def check(projection: Projection) -> None:
    """Raise ValueError for what no batch can have."""
    ratio, dim, low, high, kind = projection
    if kind not in KINDS:
        raise ValueError(f"matmul must be one of {', '.join(KINDS)}; got {kind!r}")
    if (ratio is None) == (dim is None):
        raise ValueError("give either proj_dim_ratio, a share of the batch, or proj_dim, a count")
    if ratio is not None and not (_is(ratio, int | float) and 0 < ratio <= 1):
        raise ValueError(f"proj_dim_ratio must be in (0, 1]; got {ratio!r}")
    for name, value in (("proj_dim", dim), ("proj_dim_min", low), ("proj_dim_max", high)):
        if value is not None and not (_is(value, int) and value >= 1):
            raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if low is not None and high is not None and low > high:
        raise ValueError(f"proj_dim_min must be at most proj_dim_max, {high}; got {low}")


def _is(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def relative_variance(kind: str, ratio: float) -> float:
    """How many times a batch's own variance a sketch adds where rows are alike but for chance.

    That is to say: of like norms, and with little of a common signal (a share alpha of it makes it
    (1 + alpha) / (1 - alpha) times as much). Independent numbers add 1 / ratio; what takes each
    row, or each of an orthonormal basis, once at most, 1 / ratio - 1.
    """
    return 1 / ratio - (kind not in ("gaussian", "rademacher"))


def variance_note(kind: str, rows: str, ratio: float) -> str:
    """What a report says of it; `rows` tells how many are kept."""
    times = relative_variance(kind, ratio)
    return (
        f"sketch: {kind}, {rows}: it adds about {times:.1f} times the batch's own variance to a "
        "weight's gradient, where rows are alike"
    )
