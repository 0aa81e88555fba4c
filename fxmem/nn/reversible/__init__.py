"""Reversible networks from modules: activation memory that does not grow with depth."""

from __future__ import annotations

from .conversion import Converted as Converted
from .conversion import to_momentum as to_momentum
from .conversion import to_reversible as to_reversible
from .couplings import AdditiveCoupling as AdditiveCoupling
from .couplings import AffineCoupling as AffineCoupling
from .couplings import Bijection as Bijection
from .couplings import Coupling as Coupling
from .couplings import FunctionCoupling as FunctionCoupling
from .couplings import MomentumCoupling as MomentumCoupling
from .intermediates import memory_efficient_intermediates as memory_efficient_intermediates
from .momentum import MomentumNet as MomentumNet
from .residual import ResidualToPlain as ResidualToPlain
from .residual import residual_to_plain as residual_to_plain
from .sequential import ReversibleSequential as ReversibleSequential
