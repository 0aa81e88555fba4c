"""linear(x) and conv(x) -> fxmem's, of integers: the codes that are multiplied are what is kept.

Whether a layer is trained makes no difference: what was trained in integers is used in integers.
The first layer and the last stay as they are unless `first_and_last` is asked for. A method's own
activation (DoReFa's clip, a sign) belongs to its layer; norms and activations between stay.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from fxmem.compat import hint
from fxmem.integer.functional import geometry, operator_of
from fxmem.integer.methods import kept_bits
from fxmem.passes.emit import origin
from fxmem.passes.forward.constants import attribute
from fxmem.passes.forward.dialect import module_of, op
from fxmem.passes.forward.differentiated import differentiated
from fxmem.passes.forward.emit import erase
from fxmem.passes.forward.nested import called, unread
from fxmem.passes.forward.traced import dtype_of, shape_of, traced
from fxmem.passes.graph import ancestors, module_path
from fxmem.plan import Plan, Refusal, Residual, Site
from fxmem.policy import Policy

NAME = "integer"
STEPS = ("stride", "padding", "dilation")
NAMES = ("input", "weight", "bias", *STEPS, "groups")
ATEN = (*NAMES[:-1], "transposed", "output_padding", "groups")  # aten.convolution's
LAYERS = ("linear", "conv1d", "conv2d", "convolution")
# Of this graph: that it is part of a model, behind a break or compiled by itself, nothing says.
END = "the {} layer of this graph stays as it is, without the option first_and_last"
FIXED = "wageubn"  # methods on grids that half precision would round
UNREAD = "layer in a checkpoint, a cond or the like, which is left as it is"
CONSTANT = "its weight is a buffer or a constant: no layer's, so it stays as it is"
Found = list[tuple[fx.GraphModule, fx.Node]]


def rewrite_layers(gm: fx.GraphModule, policy: Policy) -> list[Plan]:
    """Let linear layers and convolutions compute in integers, in a graph and in those it calls.

    Returns: what was decided, in one plan.
    """
    layers = list(_layers(gm))
    learned = [node for _, node in layers if not _is_constant(node)]
    ends = dict(zip((*learned[:1], *learned[-1:]), ("first", "last"), strict=False))
    ends = {} if policy.option(NAME, "first_and_last", False) else ends
    method, entries = policy.option(NAME, "method", None), []
    owners = {id(owner): owner for owner, _ in layers}.values()
    otherwise = {n: how for owner in owners for n, how in differentiated(owner.graph).items()}
    for owner, node in layers:
        end = END.format(ends[node]) if node in ends else None
        why = end or otherwise.get(node) or _why_not(node, method)
        entries.append(_entry(node, method, why))
        if why is None:
            _replace(owner.graph, node, method)
    for owner in owners:
        owner.graph.lint()
        owner.recompile()
    return [Plan(tuple(entries), tuple(_notes(gm, layers)))]


def _notes(gm: fx.GraphModule, layers: Found) -> Iterator[str]:
    """Yield where layers are that are not rewritten, and that there are none."""
    inside = sum(op(node) in LAYERS for body in unread(gm) for node in body.graph.nodes)
    if inside:
        yield f"{NAME}: {inside} x {UNREAD}"
    elif not layers:
        yield f"{NAME}: no linear layer or convolution is here"


def _layers(gm: fx.GraphModule) -> Iterator[tuple[fx.GraphModule, fx.Node]]:
    """Yield the layers in the order in which they are called, each once."""
    inner, seen = set(called(gm)), set()
    for node in list(gm.graph.nodes):
        target = node.target if node.op == "call_module" else None
        target = node.args[0].target if _is_region(node) else target
        if target in inner and target not in seen:
            seen.add(target)
            yield from _layers(gm.get_submodule(target))
        elif op(node) in LAYERS:
            yield gm, node


def _is_region(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "invoke_subgraph"


def _given(node: fx.Node) -> dict[str, Any]:
    """A layer's arguments by name; of a module its input and what it was made with."""
    names = ATEN if op(node) == "convolution" else NAMES
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if node.op != "call_module":
        return given
    module = module_of(node)
    settings = (*STEPS, "groups", "transposed", "padding_mode")
    return given | {name: getattr(module, name) for name in settings if hasattr(module, name)}


def _weight(node: fx.Node) -> Any:
    if node.op == "call_module":
        return module_of(node).weight
    return _value(_given(node)["weight"])


def _value(node: fx.Node) -> Any:
    return attribute(node) if node.op == "get_attr" else traced(node)


def _is_constant(node: fx.Node) -> bool:
    """Whether a weight is made of what is known to be no parameter, and to want no gradient."""
    if node.op == "call_module":
        return not _is_learned(_weight(node))
    made_of = ancestors([_given(node)["weight"]], lambda n: n.op == "call_module")
    if any(n.op == "call_module" for n in made_of):
        return False
    return not any(_is_learned(_value(n)) for n in made_of if n.op in ("get_attr", "placeholder"))


def _is_learned(value: Any) -> bool:
    return value is None or isinstance(value, nn.Parameter) or value.requires_grad


def _why_not(node: fx.Node, method: str) -> str | None:
    """Return why a layer is left as it is, None where it is to compute in integers."""
    if _is_constant(node):
        return CONSTANT
    given, weight = _given(node), _weight(node)
    dims = getattr(weight, "dim", lambda: 0)()
    if dims not in ((2,) if op(node) == "linear" else (3, 4)):
        return (
            "its weight is not known to be of a linear layer or a convolution of 1 or 2 dimensions"
        )
    if given.get("transposed") or given.get("padding_mode", "zeros") != "zeros":
        return "it is transposed, or pads with more than zeros"
    try:
        _steps(given, weight)
    except ValueError as error:
        return str(error)
    if method.startswith(FIXED) and dtype_of(node) in (torch.bfloat16, torch.float16):
        return f"{method} computes on grids that {dtype_of(node)} would round"
    return None


def _steps(given: dict[str, Any], weight: torch.Tensor) -> tuple[tuple[int, ...] | int, ...]:
    """Stride, padding and dilation of two dimensions each, and groups; of a linear layer none."""
    if weight.dim() == 2:
        return ()
    values = {"stride": 1, "padding": 0, "dilation": 1}
    values = {name: given.get(name, still) for name, still in values.items()}
    if weight.dim() == 3:
        values = {name: _flat(value, name) for name, value in values.items()}
        weight = weight.unsqueeze(2)
    return geometry(weight, *values.values(), given.get("groups", 1))


def _flat(value: Any, name: str) -> Any:
    """A step along one dimension as one of two, of which the first is of size 1."""
    if isinstance(value, str):
        return value
    (step,) = (value,) if isinstance(value, int) else value
    return (0 if name == "padding" else 1, step)


def _replace(graph: fx.Graph, node: fx.Node, method: str) -> None:
    given, weight = _given(node), _weight(node)
    steps = [list(it) if isinstance(it, tuple) else it for it in _steps(given, weight)]
    flat = weight.dim() == 3

    def add(target: Callable, *args: Any) -> fx.Node:
        new = graph.call_function(target, args)
        new.meta = origin(node)
        return new

    with graph.inserting_before(node):
        operands = [given["input"], *_parameters(graph, node, given)]
        if flat:
            operands[:2] = [add(torch.unsqueeze, it, -2) for it in operands[:2]]
        call = operator_of(method, "conv2d" if steps else "linear")
        output = add(operator.getitem, add(call, *operands, *steps, method), 0)
        output = add(torch.squeeze, output, -2) if flat else output
    output.meta = dict(node.meta)
    node.replace_all_uses_with(output)
    erase(graph, node)


def _parameters(graph: fx.Graph, node: fx.Node, given: dict[str, Any]) -> list[fx.Node | None]:
    if node.op != "call_module":
        return [given["weight"], given.get("bias")]
    return [
        None if getattr(module_of(node), name) is None else graph.get_attr(f"{node.target}.{name}")
        for name in ("weight", "bias")
    ]


def _entry(node: fx.Node, method: str, why: str | None) -> Site | Refusal:
    source = _given(node)["input"]
    shape, dtype = shape_of(source) or ("?",), dtype_of(source) or torch.float32
    sizes = tuple(s if isinstance(s, int) else str(s) for s in shape)
    count = math.prod(0 if s == "?" else hint(s) or 0 for s in shape)
    kind = str(dtype).removeprefix("torch.")
    size = count * dtype.itemsize
    path = module_path(node) or (node.target if node.op == "call_module" else "")
    residual = Residual(node.name, path, op(node), sizes, kind, size)
    if why is not None:
        return Refusal(residual, NAME, why)
    bits = kept_bits(method)
    after = size if bits is None else math.ceil(count * bits / 8)
    action = f"{method}: its input kept " + (
        "as it is" if bits is None else f"in at most {bits} bits"
    )
    return Site(residual, NAME, action, after, "bounded")
