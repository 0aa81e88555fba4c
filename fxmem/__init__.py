"""fxmem makes training fit: less is kept between forward and backward, and it says what and why."""

from importlib import import_module

from fxmem.calibrate import calibrate
from fxmem.convert import convert, map_module
from fxmem.explain import explain
from fxmem.history import last_report
from fxmem.plan import Plan, Refusal, Report, Residual, Site
from fxmem.policy import Policy, PolicyError
from fxmem.transform import report, transform

__version__ = "0.1.0"
__all__ = [
    "Plan",
    "Policy",
    "PolicyError",
    "Refusal",
    "Report",
    "Residual",
    "Site",
    "calibrate",
    "convert",
    "explain",
    "last_report",
    "map_module",
    "report",
    "transform",
]


def __getattr__(name: str):
    """Import on first use what few programs need: the activations' mathematics takes a while."""
    if name in ("functional", "nn", "quantizers", "weights"):
        return import_module(f"fxmem.{name}")
    raise AttributeError(f"module 'fxmem' has no attribute {name!r}")
