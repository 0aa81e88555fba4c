"""Activations as modules: those of torch.nn, and more, with a say in how their slope is kept.

    model = torch.nn.Sequential(torch.nn.Linear(8, 32), fxmem.nn.GELU(bits=2), …)

Each is named as in torch.nn, is a subclass of torch's module, and has its arguments; the others
(QuickGELU, SquaredReLU, SwiGLU, …) are rows of fxmem's table. A row that is added later has its
module too. None has parameters or buffers, so that state_dicts stay as they are.
"""

from __future__ import annotations

from fxmem.activations.table import TABLE

from .activation import DropIn as DropIn
from .generation import class_name, make
from .generation import drop_in as drop_in
from .generation import is_activation as is_activation
from .generation import twin_of as twin_of
from .stepwise import Stepwise as Stepwise

OTHERS = ("DropIn", "Stepwise", "drop_in", "is_activation", "twin_of")


def __getattr__(name: str) -> type:
    for row in TABLE.values():
        if class_name(row) == name:
            globals()[name] = make(row)
            return globals()[name]
    raise AttributeError(f"fxmem.nn has no {name!r}: no row of the table makes such a module")


def __dir__() -> list[str]:
    return sorted({*map(class_name, TABLE.values()), *OTHERS})


# Here and now rather than on first use, so that pickles and editors find the classes.
globals().update({class_name(row): make(row) for row in TABLE.values()})
