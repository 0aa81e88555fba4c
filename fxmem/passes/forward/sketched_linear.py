"""linear(x) -> fxmem's, which keeps a sketch of x: in a graph that is run as it is.

A compiler's joint graph shows more: with backend="fxmem" passes.joint.sketches.rewrite does it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import fx

from fxmem.compat import hint
from fxmem.ops import rows_of
from fxmem.ops.sketches.linear import linear_randomized
from fxmem.ops.sketches.projection import variance_note
from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.differentiated import differentiated
from fxmem.passes.forward.emit import erase
from fxmem.passes.forward.nested import called
from fxmem.passes.forward.traced import dtype_of, shape_of
from fxmem.passes.forward.uses import differentiable, keeper
from fxmem.passes.graph import module_path
from fxmem.plan import Plan, Refusal, Residual, Site
from fxmem.policy import Policy

NAME = "sketch"
NAMES = ("input", "weight", "bias")
ADDMM = ("bias", "input", "weight")  # as its operands come; the weight is transposed
NOTHING = f"{NAME}: no linear layer that it was asked for is trained here"


def rewrite_linears(gm: fx.GraphModule, policy: Policy) -> list[Plan]:
    """Let linear layers keep sketches in a graph and in those that it calls, as it was asked for.

    Returns: what was decided, one plan a graph, the caller's first.
    """
    inner = (rewrite_linears(gm.get_submodule(name), policy) for name in called(gm))
    return [_rewrite(gm, policy), *itertools.chain.from_iterable(inner)]


def _rewrite(gm: fx.GraphModule, policy: Policy) -> Plan:
    wanted = differentiable(gm.graph)
    trained = [n for n in gm.graph.nodes if _is_layer(n) and _trains(n, wanted)]
    asked = {node: policy.ratio(NAME, _path(node)) for node in trained}
    layers = {node: ratio for node, ratio in asked.items() if ratio is not None}
    otherwise = differentiated(gm.graph) if layers else {}
    entries, seen = [], set()
    for node, ratio in layers.items():
        source = _given(node)["input"]
        kept = keeper(source, wanted, frozenset(layers))
        why = otherwise.get(node) or _why_not(node, policy, ratio, kept)
        entries.append(_entry(node, policy, ratio, why, source in seen))
        seen.add(source)
    kind = policy.option(NAME, "kind", "gaussian")
    sites = [n for n, e in zip(layers, entries, strict=True) if isinstance(e, Site)]
    for node in sites:
        _replace(gm.graph, node, layers[node], kind)
    gm.graph.lint()
    gm.recompile()
    ratios = dict.fromkeys(layers[node] for node in sites)
    notes = [variance_note(kind, f"{ratio:.0%} of rows", ratio) for ratio in ratios]
    notes += [] if layers else [NOTHING]
    return Plan(tuple(entries), (*notes, *policy.unmatched(NAME, map(_path, trained))))


def _path(node: fx.Node) -> str:
    return module_path(node) or (node.target if node.op == "call_module" else "")


def _is_layer(node: fx.Node) -> bool:
    """Whether a node is a linear layer, or an addmm that is one: a row is added to x @ weight."""
    if op(node) != "addmm":
        return op(node) == "linear"
    return len(node.args) == 3 and not node.kwargs and len(shape_of(node.args[0]) or ()) == 1


def _given(node: fx.Node) -> dict[str, Any]:
    names = ADDMM if op(node) == "addmm" else NAMES
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _trains(node: fx.Node, wanted: set[fx.Node]) -> bool:
    if node.op == "call_module":
        return module_of(node).weight.requires_grad
    return _given(node)["weight"] in wanted


def _why_not(node: fx.Node, policy: Policy, ratio: float, keeper: fx.Node | None) -> str | None:
    """Return why a layer is left as it is, None where it is to keep a sketch."""
    if keeper is not None and not policy.option(NAME, "force", False):
        return f"{keeper.name} keeps its input too"
    *rows, width = shape_of(_given(node)["input"]) or (0, 0)
    n = math.prod(hint(size) or 0 for size in rows)
    if n and rows_of(n, ratio) >= n:
        return f"of {n} rows none would be left out"
    size = n * (hint(width) or 0) * (dtype_of(node) or torch.float32).itemsize
    return (
        f"its input is smaller than min_bytes={policy.min_bytes}"
        if n and size < policy.min_bytes
        else None
    )


def _replace(graph: fx.Graph, node: fx.Node, ratio: float, kind: str) -> None:
    given = _given(node)
    with graph.inserting_before(node):
        if node.op == "call_module":
            held = [name for name in NAMES[1:] if getattr(module_of(node), name) is not None]
            given |= {name: graph.get_attr(f"{node.target}.{name}") for name in held}
        if op(node) == "addmm":
            given["weight"] = graph.call_method("t", (given["weight"],))
        options = {"proj_dim_ratio": ratio, "matmul": kind}
        call = graph.call_function(linear_randomized, (), {**given, **options})
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    erase(graph, node)


def _entry(
    node: fx.Node, policy: Policy, ratio: float, why: str | None, shared: bool
) -> Site | Refusal:
    """Return what is said of a layer; bytes are said of the first that reads its input."""
    shape = shape_of(_given(node)["input"]) or ("?", "?")
    dtype = dtype_of(node) or torch.float32
    sizes = tuple(s if isinstance(s, int) else str(s) for s in shape)
    *rows, width = (0 if s == "?" or shared else hint(s) or 0 for s in shape)
    n, width = math.prod(rows), width * dtype.itemsize
    kind = str(dtype).removeprefix("torch.")
    residual = Residual(node.name, _path(node), "linear", sizes, kind, n * width)
    if why is not None:
        return Refusal(residual, NAME, why)
    action = f"sketched: {policy.option(NAME, 'kind', 'gaussian')}, {ratio:.0%} of its rows"
    return Site(residual, NAME, action, (rows_of(n, ratio) if n else 0) * width, "unbiased")
