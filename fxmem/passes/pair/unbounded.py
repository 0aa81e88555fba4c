"""Values that the backward divides by, or reads something else by: no code of few bits serves.

What is near zero is rounded to zero, and the gradient becomes infinite: an error without a bound.
What is read a pixel aside is another value.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxmem.passes.graph import is_view, op_name
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.sensitivity import CASTS, is_elementwise

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
Test = Callable[[fx.Node, fx.Node], bool]  # of a user, and of which of its inputs


def why_unbounded(pair: Pair, storage: Storage) -> str | None:
    """Return why nothing bounds what an error in a kept value costs, None where something does."""
    if _meets(pair, storage, _has_pole, _stays_small):
        return "the backward divides by it or takes its root: near zero an error has no bound"
    if _meets(pair, storage, _is_place, lambda user, _: is_elementwise(user)):
        return "it says where something is read: what is read aside is something else"
    return None


def _meets(pair: Pair, storage: Storage, ends: Test, passes_on: Test) -> bool:
    """Whether a user in the backward ends the search, seen through views and what passes on."""
    cone = dict.fromkeys(pair.taken(view.name) for view in storage.views)
    pending = list(cone)
    for node in pending:
        for user in node.users:
            if ends(user, node):
                return True
            if user not in cone and (is_view(user) or passes_on(user, node)):
                cone[user] = None
                pending.append(user)
    return False


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
