"""The widths that codes of a slope may have."""

from collections.abc import Sequence
from numbers import Integral

WIDTHS = range(1, 9)


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError for what is no width of a code."""
    for bits in widths:
        if isinstance(bits, bool) or not isinstance(bits, Integral) or bits not in WIDTHS:
            raise ValueError(f"bits must be 1 to 8; got {bits!r}")
