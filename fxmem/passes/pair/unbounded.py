"""Values that the backward divides by, or reads something else by: no code of few bits serves.

What is near zero is rounded to zero, and the gradient becomes infinite: an error without a bound.
What is read a pixel aside is another value.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import op_name
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import CASTS, is_elementwise, meets

# What has no bound near zero: the operator, and which argument it is.
POLES = {"aten.div": 1, "aten.reciprocal": 0, "aten.rsqrt": 0, "aten.sqrt": 0}
POLES |= {"aten.log": 0, "aten.log2": 0, "aten.log10": 0, "aten.cumprod": 0, "aten.prod": 0}
# Of what is near zero they make what is near zero, or not far from it.
HOMOGENEOUS = {f"aten.{op}" for op in ("mul", "abs", "neg", "relu", "pow", "maximum", "expand")}
HOMOGENEOUS |= {*CASTS, "aten.clone"}
FLOORED = ("aten.clamp_min", "aten.clamp")
# What reads a picture at places that are given: which argument they are.
PLACES = {f"aten.grid_sampler_{n}d_backward": 2 for n in (2, 3)}
SMALL = 1e-2  # a larger constant keeps a denominator away from zero


def why_unbounded(pair: Pair, storage: Storage) -> str | None:
    """Return why nothing bounds what an error in a kept value costs, None where something does."""
    if meets(pair, storage, _has_pole, _stays_small):
        return "the backward divides by it or takes its root: near zero an error has no bound"
    if meets(pair, storage, _is_place, lambda user, _: is_elementwise(user)):
        return "it says where something is read: what is read aside is something else"
    return None


def _is_place(user: fx.Node, value: fx.Node) -> bool:
    at = PLACES.get(op_name(user))
    return at is not None and user.args[at] is value


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
