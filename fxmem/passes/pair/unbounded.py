"""Values that the backward divides by, or reads something else by: no code of few bits serves.

What is near zero is rounded to zero, and the gradient becomes infinite: an error without a bound.
What is read a pixel aside is another value. What linear algebra makes of a matrix whose columns are
nearly dependent is as far away as it likes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

from torch import fx

from fxmem.passes.graph import ancestors, aten, op_name
from fxmem.passes.pair.eligible import is_reduction
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.passes.pair.ranges import Range
from fxmem.passes.pair.sensitivity import is_elementwise, meets

# What has no bound near a number: the operator, which argument it is, and the numbers.
POLES = {
    f"aten.{op}": (0, (0.0,)) for op in ("reciprocal", "rsqrt", "sqrt", "log", "log2", "log10")
}
POLES |= {"aten.div": (1, (0.0,)), "aten.log1p": (0, (-1.0,)), "aten.erfinv": (0, (-1.0, 1.0))}
# They grow without a bound near 0, -1, -2, …
POLES |= {f"aten.{op}": (0, (0.0, -1.0)) for op in ("lgamma", "digamma")}
POLES |= {f"aten.{op}": (1, (0.0, -1.0)) for op in ("polygamma", "special_zeta")}
# Of what is near zero they make quotients of products.
PRODUCTS = ("aten.prod", "aten.cumprod", "aten.scatter_reduce")
# What reads a picture at places that are given: which argument they are.
PLACES = {f"aten.grid_sampler_{n}d_backward": 2 for n in (2, 3)}
PLACES |= {"aten.cudnn_grid_sampler_backward": 1}
# What compares or rounds within one operator, so that nothing of it can be kept: which arguments.
COMPARED = {"aten._segment_reduce_backward": (1, 2)}  # the largest with each, or quotients of them
COMPARED |= {
    f"aten._fake_quantize_learnable_per_{of}_affine_backward": (1, 2, 3)
    for of in ("tensor", "channel")
}
UNCOMPARED = ("sum", "mean")  # of which a segment's gradient is read from no value
ALGEBRA = ("linalg_", "cdist_", "pdist_", "cholesky", "triangular_solve", "householder", "lu_")
ENTRYWISE = ("aten.linalg_cross", "aten.linalg_vector_norm")  # a vector at a time: well conditioned
SEVERAL = ("aten.var_mean",)  # results that are asked about one by one
SQUARES = (aten.mm.default, aten.bmm.default)
CONDITIONED = "linear algebra has it: as a matrix is conditioned, so an error in it grows"
Ranges = dict[fx.Node, Range]


def why_unbounded(pair: Pair, storage: Storage, known: Ranges) -> str | None:
    """Return why nothing bounds what an error in a kept value costs, None where something does.

    Args:
        known: the ranges of what the backward computes without gradients.
    """

    def has_pole(user: fx.Node, value: fx.Node) -> bool:
        return value in known and _has_pole(user, value, known)

    def is_function(user: fx.Node, _: fx.Node) -> bool:
        call = user.args[0] if _is_part(user) else user
        return op_name(user) in SEVERAL or (user in known and not is_reduction(call, user))

    if meets(pair, storage, has_pole, is_function):
        return "the backward divides by it or takes its root: near zero an error has no bound"
    if meets(pair, storage, _is_place, lambda user, _: is_elementwise(user)):
        return "it says where something is read: what is read aside is something else"
    if meets(pair, storage, _is_compared, lambda user, _: is_elementwise(user)):
        return "an operator of the backward compares or rounds it: as it is, or not at all"
    if meets(pair, storage, lambda user, _: _is_algebra(user), is_function):
        return CONDITIONED
    return None


def conditioned(pair: Pair) -> set[fx.Node]:
    """Return the forward's nodes that linear algebra makes, or has a product of with itself.

    Of a covariance the gradient grows with its condition, and so does what it is multiplied by.
    """

    def made_of(nodes: Iterable[fx.Node]) -> set[fx.Node]:
        return set(ancestors(nodes, lambda n: not is_elementwise(n)))

    calls = [n for n in pair.forward.graph.nodes if _is_algebra(n)]
    found = {part for call in calls for part in (call, *filter(_is_part, call.users))}
    for node in made_of(n for call in calls for n in call.all_input_nodes):
        if node.target in SQUARES:
            found |= set.intersection(*(made_of([factor]) for factor in node.args))
    return found


def _has_pole(user: fx.Node, value: fx.Node, known: Ranges) -> bool:
    name = op_name(user)
    if name == "aten.pow":
        base, exponent = user.args
        root = isinstance(exponent, fx.Node) or exponent < 1
        return base is value and root and known[value].nears_zero
    if name in PRODUCTS:
        # The others, of a scatter, reduce without a quotient.
        is_product = name != "aten.scatter_reduce" or "prod" in user.args
        return is_product and value in user.args and known[value].nears_zero
    at, poles = POLES.get(name, (0, ()))
    read = at < len(user.args) and user.args[at] is value
    return read and any(
        (known[value] + Range(-pole, -pole, pole <= 0)).nears_zero for pole in poles
    )


def _is_place(user: fx.Node, value: fx.Node) -> bool:
    at = PLACES.get(op_name(user))
    return at is not None and user.args[at] is value


def _is_compared(user: fx.Node, value: fx.Node) -> bool:
    at = COMPARED.get(op_name(user), ())
    reads = any(user.args[i] is value for i in at)
    return reads and not any(arg in UNCOMPARED for arg in user.args if isinstance(arg, str))


def _is_part(node: fx.Node) -> bool:
    """Whether a node is one of several results."""
    return node.target is operator.getitem


def _is_algebra(node: fx.Node) -> bool:
    name = op_name(node)
    return name not in ENTRYWISE and name.removeprefix("aten.").lstrip("_").startswith(ALGEBRA)
