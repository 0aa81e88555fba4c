"""What a graph does besides computing: it overwrites values and switches modes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable

import torch
from torch import fx

from fxmem.passes.forward.dialect import module_of, op

MODES = {"_set_grad_enabled", "_enter_autocast", "_exit_autocast"}
MODES |= {"_enter_inference_mode", "_exit_inference_mode"}
# In which a graph differentiates, and how deep they nest; torch.vmap's are none of these.
LEVELS = {
    **dict.fromkeys(("_grad_increment_nesting", "_jvp_increment_nesting", "_enter_dual_level"), 1),
    **dict.fromkeys(("_grad_decrement_nesting", "_jvp_decrement_nesting", "_exit_dual_level"), -1),
}
MODES |= set(LEVELS)
UPDATES = {"setitem", "iadd", "isub", "imul", "itruediv", "ipow", "imod", "ifloordiv", "imatmul"}
# Written so that they change nothing that another node sees.
HARMLESS = {"detach_", "requires_grad_", "lift_fresh_copy", "_assert_tensor_metadata"}
IDLE = {"detach", "alias", "getitem", "_assert_tensor_metadata"}


def overwrites(node: fx.Node) -> bool:
    """Whether a node writes into a value that others may see; in doubt it does."""
    if node.op == "call_module":
        return bool(getattr(module_of(node), "inplace", False))
    if not node.op.startswith("call_"):
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable and op(node) not in HARMLESS
    name = str(getattr(node.target, "__name__", node.target))
    writes = name in UPDATES or bool(re.search(r"[a-z0-9]_$|^__(i[a-z]{2}|setitem)", name))
    said = node.kwargs.get("inplace") or "out" in node.kwargs or _is_flagged(node)
    return bool(said or writes) and name not in HARMLESS


def _is_flagged(node: fx.Node) -> bool:
    """Whether a function is given a true `inplace` by position; methods have no such argument."""
    if node.op != "call_function":
        return False
    place = _place_of_flag(node.target)
    return place is not None and any(given is True for given in node.args[place : place + 1])


@functools.cache
def _place_of_flag(function: Callable) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None  # torch's own in C: their names say it
    return names.index("inplace") if "inplace" in names else None


def spans(graph: fx.Graph) -> dict[fx.Node, int]:
    """Number the stretches in which nothing is overwritten and no mode is switched.

    Within one, a value is the same wherever it is read, and is differentiated or not.
    """
    number, found = 0, {}
    for node in graph.nodes:
        breaks = getattr(node.target, "__name__", "") in MODES or overwrites(node)
        found[node] = number = number + breaks
        number += breaks
    return found


def readers(node: fx.Node) -> list[fx.Node]:
    """Return the users that compute with a value; tracers leave some that only look at it."""
    return [user for user in node.users if user.users or op(user) not in IDLE]
