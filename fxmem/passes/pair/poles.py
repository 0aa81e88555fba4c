"""Values that the backward divides by, or of which it takes a root: no code of few bits serves.

What is near zero is rounded to zero, and the gradient becomes infinite: an error without a bound.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import is_view, op_name
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import CASTS

# What has no bound near zero: the operator, and which argument it is.
POLES = {"aten.div": 1, "aten.reciprocal": 0, "aten.rsqrt": 0, "aten.sqrt": 0}
POLES |= {"aten.log": 0, "aten.log2": 0, "aten.log10": 0, "aten.cumprod": 0, "aten.prod": 0}
# Of what is near zero they make what is near zero, or not far from it.
HOMOGENEOUS = {f"aten.{op}" for op in ("mul", "abs", "neg", "relu", "pow", "maximum", "expand")}
HOMOGENEOUS |= {*CASTS, "aten.clone"}
FLOORED = ("aten.clamp_min", "aten.clamp")
SMALL = 1e-2  # a larger constant keeps a denominator away from zero


def meets_pole(pair: Pair, storage: Storage) -> bool:
    """Whether the backward divides by what is kept, or takes its root or logarithm."""
    cone = dict.fromkeys(pair.taken(view.name) for view in storage.views)
    pending = list(cone)
    for node in pending:
        for user in node.users:
            if _has_pole(user, node):
                return True
            if user not in cone and (is_view(user) or _stays_small(user, node)):
                cone[user] = None
                pending.append(user)
    return False


def _has_pole(user: fx.Node, value: fx.Node) -> bool:
    if op_name(user) == "aten.pow":
        base, exponent = user.args
        return base is value and (isinstance(exponent, fx.Node) or exponent < 1)
    at = POLES.get(op_name(user))
    return at is not None and at < len(user.args) and user.args[at] is value


def _stays_small(user: fx.Node, value: fx.Node) -> bool:
    name = op_name(user)
    if name == "aten.add":
        other = user.args[1] if user.args[0] is value else user.args[0]
        return not isinstance(other, fx.Node) and abs(other) < SMALL
    if name in FLOORED:
        least = user.args[1] if len(user.args) > 1 else None
        return not isinstance(least, float | int) or least < SMALL
    return name in HOMOGENEOUS or (name == "aten.where" and value in user.args[1:])
