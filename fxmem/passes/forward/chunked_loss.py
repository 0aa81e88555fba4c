"""cross_entropy(linear(x)) -> fxmem.linear_cross_entropy(x), which never holds all the logits."""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxmem.compat import hint
from fxmem.passes.forward.dialect import op
from fxmem.passes.forward.differentiated import differentiated
from fxmem.passes.forward.effects import readers, spans
from fxmem.passes.forward.emit import emit, erase
from fxmem.passes.forward.loss_path import classes_at, moved, same, why_not
from fxmem.passes.forward.losses import LOG_SOFTMAX, OF_LOGARITHMS, Loss, find_losses, layer
from fxmem.passes.forward.losses import loss_name as name_of
from fxmem.passes.forward.nested import called
from fxmem.passes.forward.traced import device_of, dtype_of, shape_of
from fxmem.passes.forward.uses import differentiable
from fxmem.passes.forward.z_loss import ZLoss, find_z_loss
from fxmem.passes.graph import module_path
from fxmem.plan import Plan, Refusal, Residual, Site
from fxmem.policy import Policy

NAME = "chunked_loss"
# Measured on a CPU by benchmarks/loss.py: a ninth of fewer rows is too few for fast products,
# and in bfloat16 the more so.
ROWS = {torch.float32: 2048, torch.float64: 2048, torch.bfloat16: 4096}
TRANSPOSES = {"t", "T", "numpy_T", "adjoint", "mT"}


def rewrite_losses(gm: fx.GraphModule, policy: Policy) -> list[Plan]:
    """Rewrite the losses of a graph and of those that it calls: all, where asked for by name.

    Returns: what was decided, one plan a graph, the caller's first.
    """
    inner = (rewrite_losses(gm.get_submodule(name), policy) for name in called(gm))
    return [Plan(tuple(_rewrite(gm, policy))), *itertools.chain.from_iterable(inner)]


def _rewrite(gm: fx.GraphModule, policy: Policy) -> Iterator[Site | Refusal]:
    found = list(find_losses(gm.graph))
    wanted, stretch = differentiable(gm.graph), spans(gm.graph)
    otherwise = differentiated(gm.graph) if found else {}
    for loss in found:
        z = find_z_loss(loss)
        why = _why_no_loss(loss) or _why_read(loss, z, stretch) or _why_costly(loss, policy)
        why = otherwise.get(loss.exit, why)
        if loss.linear not in wanted:
            why = "nothing that it reads wants a gradient"
        residual = _residual(loss)
        if why:
            yield Refusal(residual, NAME, why)
            continue
        action, after = _kept(loss, wanted)
        _apply(gm.graph, loss, z)
        yield Site(residual, NAME, action, after, "exact")
    if found:
        gm.graph.lint()
        gm.recompile()


def _why_no_loss(loss: Loss) -> str | None:
    """Return why this is not the loss that the operator computes."""
    options, path = loss.options, loss.path
    target, logits = options["target"], options["input"]
    shapes = [shape_of(node) for node in (loss.linear, logits, target)]
    if loss.linear.op == "placeholder":
        return "its logits come into the graph: the layer is before a graph break, or outside"
    if None in shapes or dtype_of(target) is None:
        return "no tracer has noted the shapes of the logits and of the target"
    (*_, classes), above, labels = shapes
    if dtype_of(target) not in (torch.int64, torch.uint8):
        return "its target is probabilities, not labels"
    if options.get("size_average") is not None or options.get("reduce") is not None:
        return "size_average and reduce are deprecated: say reduction"
    for i, node in enumerate(path):
        is_log = op(node) in LOG_SOFTMAX
        why = _why_no_log(node) if is_log else why_not(node, classes, last=i == 0)
        if why:
            return why
    logarithms = sum(op(node) in LOG_SOFTMAX for node in path)
    if logarithms != (name_of(loss.call) in OF_LOGARITHMS):
        return "it does not take one log-softmax of the logits"
    at = classes_at(logits)
    if len(above) > 2 and at != 1:
        return f"the classes are not the last dimension of {logits.name}"
    rows = (*above[:at], *above[at + 1 :])
    return None if list(map(str, rows)) == list(map(str, labels)) else "its target has other rows"


def _why_no_log(node: fx.Node) -> str | None:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    shape = shape_of(node) or ()
    is_last = isinstance(dim, int) and len(shape) and dim % len(shape) == len(shape) - 1
    return None if is_last else f"{node.name} is not taken over the classes of a row"


def _why_read(loss: Loss, z: ZLoss | None, stretch: dict[fx.Node, int]) -> str | None:
    """Return why the logits must exist, or cannot be computed where the loss is."""
    own = {*loss.chain, *(z.nodes if z else ())}
    for node in loss.chain[:-1]:
        others = [user for user in readers(node) if user not in own and not _asks(user)]
        if any(user.op == "output" for user in others):
            return "the logits are returned too: compile a step that returns the loss alone"
        if others:
            return f"the logits exist anyway: {others[0].name} reads {node.name} too"
    if loss.exit is not loss.call and len(readers(loss.call)) > 1:
        return "the weight of all labels is read too"
    if z and (loss.options["reduction"] == "none" or len(readers(loss.exit)) > 1):
        return f"{z.nodes[-1].name} adds a z-loss to more than one number"
    if len({stretch[node] for node in (loss.linear, loss.exit, *(z.nodes[:-1] if z else ()))}) > 1:
        return "something is overwritten, or autocast switched, between its layer and the loss"
    hidden, weight, bias = layer(loss.linear)
    if loss.linear.kwargs.keys() - {"input", "weight", "bias"}:
        return f"{loss.linear.name} scales its product"
    sizes = [_shape(weight), _shape(hidden)]
    flat = sizes[0] is not None and len(sizes[0]) == 2 and sizes[1] is not None
    if not flat or (bias is not None and _shape(bias) is None):
        return "the shapes of what the linear layer reads are not known"
    fits = bias is None or (
        len(_shape(bias)) == 1 and same(_shape(bias)[0], shape_of(loss.linear)[-1])
    )
    return None if fits else f"the bias of {loss.linear.name} is not one number a class"


def _shape(read: Any) -> tuple[int | torch.SymInt, ...] | None:
    return shape_of(read) if isinstance(read, fx.Node) else tuple(read.shape)


def _asks(node: fx.Node) -> bool:
    """Whether a node asks where the logits are, which is where their layer's input is."""
    return node.target is builtins.getattr and node.args[1] == "device"


def _why_costly(loss: Loss, policy: Policy) -> str | None:
    """Return why it would save nothing, or take longer."""
    *rows, classes = shape_of(loss.linear)
    width = shape_of(layer(loss.linear)[0])[-1]
    n, v, d = math.prod(hint(size) or 0 for size in rows), hint(classes) or 0, hint(width) or 0
    dtype, device = dtype_of(loss.linear), device_of(loss.linear)
    if policy.asks(NAME):
        return None
    if n * v * dtype.itemsize < policy.min_bytes:
        return f"its logits are smaller than min_bytes={policy.min_bytes}"
    if dtype not in ROWS:
        return "float16 gradients must be scaled before they are made: in the backward, which costs"
    if device is not None and device.type != "cpu":
        return f"its time on {device.type} was not measured: ask for it by name"
    if n < ROWS[dtype]:
        return f"{n} rows are too few for chunks that are as fast; from {ROWS[dtype]} on they are"
    if v < 2 * d or n < 2 * d:
        return f"logits of {n} x {v} are not large beside a gradient of {v} x {d}"
    return None


def _kept(loss: Loss, wanted: set[fx.Node]) -> tuple[str, int]:
    """Return what is kept in place of the logits; the gradient of hidden is, in place of hidden."""
    hidden, weight, _ = layer(loss.linear)
    dtype = dtype_of(loss.linear)
    if dtype == torch.float16 or loss.options["reduction"] == "none":
        return "the logits computed in chunks, in the backward again", 0
    sizes = (hint(shape_of(loss.linear)[-1]) or 0, hint(shape_of(hidden)[-1]) or 0)
    trained = weight in wanted if isinstance(weight, fx.Node) else weight.requires_grad
    action = "the logits computed in chunks, with the gradients"
    return action, math.prod(sizes) * dtype.itemsize if trained else 0


def _apply(graph: fx.Graph, loss: Loss, z: ZLoss | None) -> None:
    """Put the operator where the loss is, and what the path does to rows before it."""
    options, exit = loss.options, z.nodes[-1] if z else loss.exit
    with graph.inserting_before(loss.call):
        hidden, weight, bias = _read(graph, loss.linear)
        width = shape_of(hidden)[-1]
        for node in reversed(loss.path):
            hidden = moved(graph, node, hidden, width) if op(node) not in LOG_SOFTMAX else hidden
        for user in (user for node in loss.chain for user in list(node.users) if _asks(user)):
            user.update_arg(0, layer(loss.linear)[0])
        given = (options["reduction"], options["ignore_index"], options.get("label_smoothing", 0.0))
        weights = _as_node(graph, loss.call, options["weight"], "weight")
        call = torch.ops.fxmem.linear_cross_entropy.default
        tensors = (hidden, weight, options["target"], bias, weights)
        given += (z.factor, None, 0, z.reduction) if z else ()
        output = graph.call_function(call, (*tensors, *given))
        output.meta = dict(exit.meta)
        dtype = dtype_of(exit)
        if dtype not in (torch.float32, torch.float64):
            output = graph.call_function(torch.ops.aten.to.dtype, (output, dtype))
            output.meta = dict(exit.meta)
    exit.replace_all_uses_with(output)
    squares = reversed(z.nodes) if z else ()
    for node in dict.fromkeys((*squares, loss.exit, *reversed(loss.chain))):
        erase(graph, node)


def _read(graph: fx.Graph, linear: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None]:
    hidden, weight, bias = layer(linear)
    if op(linear) == "linear":
        return hidden, *(
            _as_node(graph, linear, value, name)
            for name, value in (("weight", weight), ("bias", bias))
        )
    if op(weight) in TRANSPOSES:
        return hidden, weight.args[0], bias
    return hidden, emit(graph, weight, torch.t, weight), bias


def _as_node(graph: fx.Graph, owner: fx.Node, value: Any, name: str) -> fx.Node | None:
    """Return what a module holds as a node that reads it."""
    if value is None or isinstance(value, fx.Node):
        return value
    return graph.get_attr(f"{owner.target}.{name}")


def _residual(loss: Loss) -> Residual:
    shape = shape_of(loss.linear) or ()
    dtype = dtype_of(loss.options["input"]) or torch.float32
    nbytes = math.prod(hint(size) or 0 for size in shape) * dtype.itemsize
    sizes = tuple(size if isinstance(size, int) else str(size) for size in shape) or ("?",)
    kind = str(dtype).removeprefix("torch.")
    return Residual(loss.exit.name, module_path(loss.exit), "cross_entropy", sizes, kind, nbytes)
