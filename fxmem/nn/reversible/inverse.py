"""Whether a step can be undone, seen by undoing one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .couplings import Coupling

if TYPE_CHECKING:
    from .arithmetic import Arithmetic

Tensor = torch.Tensor
# An inverse may be off by so many times what a rounding of the streams moves it: additive, affine,
# gated and momentum couplings, in four dtypes, were off by once that at most.
MARGIN = 16


@torch.no_grad()
def check_inverse(
    label: str, arithmetic: Arithmetic, coupling: Coupling, before: Any, after: Any, f: Tensor
) -> bool:
    """Raise ValueError where a step cannot be undone: off by more than rounding explains.

    Return whether these streams can tell: empty ones, zeros and what is not finite cannot.
    """
    undone = _undone(arithmetic, coupling, after, f)
    streams, moved = arithmetic.values(before), arithmetic.values(after)
    largest = _largest(*streams, *moved)
    if not 0 < largest < float("inf"):
        return False
    error = _distance(streams, undone) / largest
    allowed = torch.finfo(streams[0].dtype).eps ** 0.5
    if arithmetic.is_streams:
        allowed = min(allowed, MARGIN * _rounding(arithmetic, coupling, moved, f, undone, largest))
    if not error <= allowed:
        raise ValueError(
            f"{label}: {coupling} does not invert: on this batch its inverse is off by {error:.2g} "
            f"of the largest value, and rounding explains {allowed:.2g} at most"
        )
    return True


def _undone(
    arithmetic: Arithmetic, coupling: Coupling, after: Any, f: Tensor
) -> tuple[Tensor, ...]:
    source = arithmetic.source(after, coupling)
    return arithmetic.values(arithmetic.back(after, coupling, source, f))


def _rounding(
    arithmetic: Arithmetic,
    coupling: Coupling,
    after: tuple[Tensor, ...],
    f: Tensor,
    undone: tuple[Tensor, ...],
    largest: float,
) -> float:
    """Return how far an inverse moves for a rounding of what it undoes, of the largest value."""
    eps = torch.finfo(after[0].dtype).eps
    rounded = arithmetic.enter(*(x + eps * largest for x in after))
    moved = _distance(_undone(arithmetic, coupling, rounded, f), undone) / largest
    return max(eps, moved)


def _distance(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> float:
    return _largest(*(x - y for x, y in zip(some, others, strict=True)))


def _largest(*tensors: Tensor) -> float:
    """Return the largest magnitude; NaN where there is one."""
    found = [float(x.abs().max()) for x in tensors if x.numel()]
    return float(torch.tensor(found or [0.0], dtype=torch.float64).amax())
