"""Why a norm is left as it is: it would keep no less, or would not be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from fxmem.passes.forward.activations import HALVES, ROUNDINGS, Activation
from fxmem.passes.forward.cones import Cone
from fxmem.passes.forward.dialect import is_pointwise, is_view, op
from fxmem.passes.forward.eager import kept, plainly
from fxmem.passes.forward.effects import overwrites, readers
from fxmem.passes.forward.norms.idioms import Idiom
from fxmem.passes.forward.norms.nodes import WITH_STATISTICS, Norm, is_changed, is_one_result
from fxmem.passes.forward.traced import dtype_of
from fxmem.passes.forward.uses import ATTENTION, keeper

# Whose backward reads their own output, and whose reads their input, beside pointwise operations.
OUTPUT_KEEPERS = {"softmax", "log_softmax", "_softmax", "_log_softmax", "softmin", ATTENTION}
INPUT_KEEPERS = {"logsumexp", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm"}
INPUT_KEEPERS |= {"prod", "cumprod", *(f"max_pool{dims}d" for dims in (1, 2, 3))}


@dataclass(frozen=True)
class Uses:
    """Of all nodes: which may want a gradient, and in which stretch nothing is overwritten.

    Args:
        numbers: the nodes that are always the same number.
        activations: by what they read; whether they will keep that is decided later.
    """

    wanted: set[fx.Node]
    stretch: Mapping[fx.Node, int]
    numbers: Mapping[fx.Node, torch.Tensor]
    activations: Mapping[fx.Node, Activation]

    def born(self, node: fx.Node) -> int:
        """Return the stretch in which a value is first read."""
        return self.stretch[node] + overwrites(node)


def why_not(norm: Norm, uses: Uses) -> str | None:
    """Return why a norm is left as it is, None where it is to keep its output."""
    return _why_not_itself(norm) or _why_not_less(norm, uses)


def _why_not_itself(norm: Norm) -> str | None:
    if is_changed(norm.node):
        return "its module has hooks or a parametrization, which torch's function would not run"
    if norm.idiom:
        return _why_not_idiom(norm.idiom, norm)
    if op(norm.node) in WITH_STATISTICS and not all(map(is_one_result, norm.node.users)):
        return "its results are read together"
    if any(result.args[1] and readers(result) for result in norm.results):
        return "its mean or deviation is read too"
    return None


def _why_not_idiom(idiom: Idiom, norm: Norm) -> str | None:
    inside = set(norm.nodes)
    for node in norm.nodes[:-1]:
        for user in readers(node):
            if user not in inside:
                return f"{user.name} reads {node.name} inside of it"
    if idiom.width is None:
        return "neither a weight nor a tracer tells how wide its rows are"
    return _why_not_cast(idiom, norm)


def _why_not_cast(idiom: Idiom, norm: Norm) -> str | None:
    """Return why an output would have another dtype, or more digits."""
    found = dtype_of(norm.source), dtype_of(norm.exit)
    if None not in found and found[0] != found[1]:
        return f"its output is {_name(found[1])}, its input {_name(found[0])}"
    own = {leaf.dtype for leaf in idiom.leaves.values()}
    if not own <= {norm.dtype, torch.float32}:
        return f"a weight of it is {_name(*(own - {norm.dtype}))}, its input {_name(norm.dtype)}"
    unknown = {norm.dtype} if own else {torch.float32, *HALVES}
    for dtype in {norm.dtype} if dtype_of(norm.source) else unknown:
        if why := _why_rounded(idiom, dtype):
            return why
    return None


def _why_rounded(idiom: Idiom, dtype: torch.dtype) -> str | None:
    points = torch.linspace(-3, 4, 8 * idiom.width).view(-1, 8).t().to(dtype)
    result = idiom.with_ones().run(points, casts=True)
    exact = idiom.with_ones(torch.float64)
    if result is None or result.dtype != dtype:
        return f"its output is not {_name(dtype)} where its input is"
    error = (result.double() - exact.run(points.double(), casts=False)).abs().max().item()
    if error > ROUNDINGS * torch.finfo(dtype).eps:
        return "it rounds to less than its input's precision on the way"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _why_not_less(norm: Norm, uses: Uses) -> str | None:
    """Return why it would keep no less."""
    before, after = priced(norm, uses)
    if before <= after:
        found = _source_keeper(norm, uses)
        return "nothing else keeps its output" if after else f"{found} keeps its input too"
    if after:
        return None if _stays(norm.exit, uses) else "something may overwrite its output"
    found = _output_keeper(norm, uses)
    if uses.stretch[found] != uses.born(norm.exit):
        return f"something is overwritten before {found.name} reads its output"
    return None


def priced(norm: Norm, uses: Uses) -> tuple[int, int]:
    """Return the bits an element that are kept for a norm alone: by eager, and by its output."""
    of_source, between = norm.kept
    before = between + (0 if _source_keeper(norm, uses) else of_source)
    return before, 0 if _output_keeper(norm, uses) else 8 * norm.dtype.itemsize


def _output_keeper(norm: Norm, uses: Uses) -> fx.Node | None:
    """Return who keeps the output besides it; what an activation keeps is not yet decided."""
    follower = uses.activations.get(norm.exit)
    undecided = frozenset(follower.cone.nodes) if follower else frozenset()
    return keeper(norm.exit, uses.wanted, but=undecided)


def _stays(value: fx.Node, uses: Uses) -> bool:
    """Whether nothing writes into a value: whoever reads it does so at once, and sees no view."""
    return all(
        uses.stretch[user] == uses.born(value) and not overwrites(user) and not is_view(user)
        for user in readers(value)
        if user.op != "output"
    )


def _source_keeper(norm: Norm, uses: Uses) -> str | None:
    """Return who keeps the input of a norm besides it: a reader of it, or what makes it."""
    inside = frozenset(norm.nodes)
    found = keeper(norm.source, uses.wanted, but=inside)
    if found is None:
        found = next((u for u in readers(norm.source) if _keeps_input(u, inside, uses)), None)
    if found is None and _keeps_output(norm.source, uses):
        found = norm.source
    return found and found.name


def _keeps_input(user: fx.Node, inside: frozenset[fx.Node], uses: Uses) -> bool:
    if user in inside or user not in uses.wanted:
        return False
    return op(user) in INPUT_KEEPERS or _kept_by(user, uses)[0]


def _keeps_output(node: fx.Node, uses: Uses) -> bool:
    if node not in uses.wanted:
        return False
    if is_view(node) and node.all_input_nodes and not is_pointwise(node):
        return _keeps_output(node.all_input_nodes[0], uses)
    return op(node) in OUTPUT_KEEPERS or _kept_by(node, uses)[1]


def _kept_by(node: fx.Node, uses: Uses) -> tuple[bool, bool]:
    """Return whether eager keeps the input and the output of a function of one value."""
    inputs = [given for given in node.all_input_nodes if given not in uses.numbers]
    if not is_pointwise(node) or len(inputs) != 1:
        return False, False
    with plainly():
        found = kept(Cone(inputs[0], (node,), uses.numbers), torch.float32)
    return found.source > 0, found.output > 0
