"""Every activation of the table as a function: torch's arguments, and how its slope is kept.

    y = fxmem.functional.gelu(x, approximate="tanh", bits=2)

There is one function a row of `fxmem.activations.table.TABLE`, by the row's name and with the
signature of torch's own where torch has one; a row that is added later has its function too.
`help(fxmem.functional.gelu)` says what each keyword means. Norms, dropout and max pools have
torch's signatures too.
"""

from __future__ import annotations

from collections.abc import Callable

from fxmem.activations.table import TABLE
from fxmem.ops.dropout import alpha_dropout as alpha_dropout
from fxmem.ops.dropout import dropout as dropout
from fxmem.ops.max_pool import max_pool1d as max_pool1d
from fxmem.ops.max_pool import max_pool2d as max_pool2d
from fxmem.ops.max_pool import max_pool3d as max_pool3d
from fxmem.ops.sketches.linear import linear_crs as linear_crs
from fxmem.ops.sketches.linear import linear_randomized as linear_randomized
from fxmem.ops.vocabulary.operators import linear_cross_entropy as linear_cross_entropy

from .generation import make
from .norms import batch_norm as batch_norm
from .norms import group_norm as group_norm
from .norms import layer_norm as layer_norm
from .norms import rms_norm as rms_norm
from .steps import stepwise as stepwise
from .tables import store as store

OTHERS = (
    "linear_cross_entropy",
    *("linear_crs", "linear_randomized", "stepwise", "store"),
    *("batch_norm", "group_norm", "layer_norm", "rms_norm"),
    *("alpha_dropout", "dropout", "max_pool1d", "max_pool2d", "max_pool3d"),
)


def __getattr__(name: str) -> Callable:
    if name not in TABLE:
        raise AttributeError(
            f"fxmem.functional has no {name!r}: no row of the table is called that"
        )
    globals()[name] = make(TABLE[name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*TABLE, *OTHERS})


# Here and now rather than on first use, for whoever looks into the module without asking.
globals().update({name: make(row) for name, row in TABLE.items()})
