"""Activations as modules: those of torch.nn, and more, with a say in how their slope is kept.

    model = torch.nn.Sequential(torch.nn.Linear(8, 32), fxmem.nn.GELU(bits=2), …)

Each is named as in torch.nn, is a subclass of torch's module, and has its arguments; the others
(QuickGELU, SquaredReLU, SwiGLU, …) are rows of fxmem's table. A row that is added later has its
module too. None has parameters or buffers, so that state_dicts stay as they are.

Besides activations there are torch's norms, which keep their output; Dropout and AlphaDropout,
which keep a bit an element; and max pools, which keep the bits that a place in a window takes.
Their parameters, buffers and arguments are torch's.
"""

from __future__ import annotations

from fxmem.activations.table import TABLE

from . import quantized as quantized
from . import reversible as reversible
from .activation import DropIn as DropIn
from .conv1d import RandomizedConv1D as RandomizedConv1D
from .dropout import AlphaDropout as AlphaDropout
from .dropout import Dropout as Dropout
from .generation import class_name, make
from .generation import drop_in as drop_in
from .generation import is_activation as is_activation
from .generation import twin_of as twin_of
from .gradient_variance import Variance as Variance
from .gradient_variance import VarianceEstimator as VarianceEstimator
from .gradient_variance import variance as variance
from .linear import LinearCRS as LinearCRS
from .linear import RandomizedLinear as RandomizedLinear
from .loss import LinearCrossEntropy as LinearCrossEntropy
from .max_pool import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from .max_pool import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from .max_pool import AdaptiveMaxPool3d as AdaptiveMaxPool3d
from .max_pool import MaxPool1d as MaxPool1d
from .max_pool import MaxPool2d as MaxPool2d
from .max_pool import MaxPool3d as MaxPool3d
from .norms import BatchNorm1d as BatchNorm1d
from .norms import BatchNorm2d as BatchNorm2d
from .norms import BatchNorm3d as BatchNorm3d
from .norms import GroupNorm as GroupNorm
from .norms import LayerNorm as LayerNorm
from .norms import RMSNorm as RMSNorm
from .stepwise import Stepwise as Stepwise
from .twins import NAMES as TWIN_NAMES
from .variance_table import Variances as Variances
from .variance_table import variances as variances

OTHERS = (
    "LinearCrossEntropy",
    *("DropIn", "Stepwise", "drop_in", "is_activation", "twin_of"),
    *("quantized", "reversible"),
    *("LinearCRS", "RandomizedConv1D", "RandomizedLinear"),
    *("Variance", "VarianceEstimator", "Variances", "variance", "variances"),
)


def __getattr__(name: str) -> type:
    for row in TABLE.values():
        if class_name(row) == name:
            globals()[name] = make(row)
            return globals()[name]
    raise AttributeError(f"fxmem.nn has no {name!r}: no row of the table makes such a module")


def __dir__() -> list[str]:
    return sorted({*map(class_name, TABLE.values()), *TWIN_NAMES, *OTHERS})


# Here and now rather than on first use, so that pickles and editors find the classes.
globals().update({class_name(row): make(row) for row in TABLE.values()})
