"""Every activation of the table as a function: torch's arguments, and how its slope is kept.

    y = fxmem.functional.gelu(x, approximate="tanh", bits=2)

There is one function a row of `fxmem.activations.table.TABLE`, by the row's name and with the
signature of torch's own where torch has one; a row that is added later has its function too.
`help(fxmem.functional.gelu)` says what each keyword means.
"""

from __future__ import annotations

from collections.abc import Callable

from fxmem.activations.table import TABLE

from .generation import make
from .steps import stepwise as stepwise
from .tables import store as store


def __getattr__(name: str) -> Callable:
    if name not in TABLE:
        raise AttributeError(
            f"fxmem.functional has no {name!r}: no row of the table is called that"
        )
    globals()[name] = make(TABLE[name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*TABLE, "stepwise", "store"})


# Here and now rather than on first use, for whoever looks into the module without asking.
globals().update({name: make(row) for name, row in TABLE.items()})
