"""fxmem makes training fit: less is kept between forward and backward, and it says what and why."""

from fxmem.explain import explain
from fxmem.history import last_report
from fxmem.plan import Plan, Refusal, Report, Residual, Site
from fxmem.policy import Policy, PolicyError

__version__ = "0.1.0"
__all__ = [
    "Plan",
    "Policy",
    "PolicyError",
    "Refusal",
    "Report",
    "Residual",
    "Site",
    "explain",
    "last_report",
]
