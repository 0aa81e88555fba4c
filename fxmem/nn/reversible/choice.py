"""Which arithmetic a chain of couplings is held in."""

from __future__ import annotations

from collections.abc import Sequence

from .arithmetic import Arithmetic
from .compensated import Compensated
from .couplings import AdditiveCoupling, Bijection, Coupling, MomentumCoupling
from .fixed import Fixed
from .fixed_momentum import FixedMomentum


def chosen(
    couplings: Sequence[Coupling],
    exact: bool = False,
    compensate: int | None = None,
    headroom: int | None = None,
) -> Arithmetic:
    """Return the arithmetic for a chain of these couplings.

    Args:
        couplings: those of the chain; with `exact` or `compensate` all additive, or all momentum
            with one gamma; with `exact` bijections may stand among additive ones.
        exact: fixed-point streams, whose steps are undone bit for bit.
        compensate: float streams, and this many bits (1 to 8) of each addition's rounding error.
        headroom: with `exact`, by how many powers of two a stream may outgrow its input.

    Raises:
        ValueError: for both at once, couplings that multiply, or a headroom without `exact`.
    """
    if exact and compensate is not None:
        raise ValueError("exact=True has no rounding errors to compensate: give one of the two")
    if headroom is not None and not exact:
        raise ValueError("headroom is for exact=True: float streams do not overflow")
    if not exact and compensate is None:
        return Arithmetic()
    gamma = _gamma(couplings, exact)
    if compensate is not None:
        return Compensated(compensate, 1.0 if gamma is None else 1 / gamma)
    return Fixed(headroom) if gamma is None else FixedMomentum(gamma, headroom)


def _gamma(couplings: Sequence[Coupling], exact: bool) -> float | None:
    """Return the gamma of momentum couplings, None for additive ones."""
    moving = (AdditiveCoupling, Bijection) if exact else AdditiveCoupling
    if all(isinstance(coupling, moving) for coupling in couplings):
        return None
    first = couplings[0]
    if isinstance(first, MomentumCoupling) and all(c == first for c in couplings):
        return first.gamma
    names = ", ".join(sorted({type(c).__name__ for c in couplings}))
    asked, also = ("exact=True", " (with bijections)") if exact else ("compensate", "")
    raise ValueError(
        f"{asked} is for chains of additive couplings{also}, or of momentum couplings with one "
        f"gamma; got {names}"
    )
