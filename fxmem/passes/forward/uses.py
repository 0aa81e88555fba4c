"""Who wants a gradient, and who keeps a value for its own backward, in eager PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxmem.compat import hint
from fxmem.passes.forward.constants import attribute, call
from fxmem.passes.forward.dialect import CASTS, is_view, module_of, op
from fxmem.passes.forward.eager import plainly
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.traced import dtype_of, traced

# Products keep each factor if another factor wants a gradient: which arguments are factors.
CONVOLUTIONS = [f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)]
ATTENTION = "scaled_dot_product_attention"
PRODUCTS = {
    **dict.fromkeys(("mul", "div", "matmul", "mm", "bmm", "linear"), (0, 1)),
    **dict.fromkeys(("convolution", *CONVOLUTIONS), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm"), (1, 2)),
    ATTENTION: (0, 1, 2),
}
NORMS = {f"{kind}_norm" for kind in ("batch", "layer", "rms", "group", "instance")}
NORMS |= {f"native_{norm}" for norm in NORMS}
NORMS |= {"_native_batch_norm_legit", "_batch_norm_with_update", "_fused_rms_norm"}


def differentiable(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values may want a gradient; inputs do, unless a tracer knows."""
    wanted: set[fx.Node] = set()
    enabled = True
    for node in graph.nodes:
        if node.target is torch._C._set_grad_enabled:
            enabled = node.args[0]
        elif enabled and _wants(node, wanted):
            wanted.add(node)
    return wanted


def _wants(node: fx.Node, wanted: set[fx.Node]) -> bool:
    if node.op == "placeholder":
        value = node.meta.get("example_value")  # Dynamo's; other tracers detach what they record
        return value is None or getattr(value, "requires_grad", False)
    if node.op == "get_attr":
        return getattr(attribute(node), "requires_grad", False) is True
    if op(node) in ("detach", "detach_"):
        return False
    trained = node.op == "call_module" and any(
        parameter.requires_grad for parameter in module_of(node).parameters()
    )
    return trained or not wanted.isdisjoint(node.all_input_nodes)


def keeper(
    value: fx.Node, wanted: set[fx.Node], but: frozenset[fx.Node] = frozenset()
) -> fx.Node | None:
    """Return a node, none of `but`, whose backward needs `value` or a view of it."""
    for user in readers(value):
        if user in but:
            continue
        if _keeps(user, value, wanted):
            return user
        if _hands_on(user) and (found := keeper(user, wanted, but)):
            return found
    return None


def _keeps(user: fx.Node, value: fx.Node, wanted: set[fx.Node]) -> bool:
    name = op(user)
    if name in NORMS:
        return user in wanted
    if name not in PRODUCTS:
        return False
    if user.op == "call_module":
        return module_of(user).weight.requires_grad
    given = [*user.args, *user.kwargs.values()]
    factors = [given[i] for i in PRODUCTS[name] if i < len(given)]
    if value not in factors:
        return False
    factors.remove(value)
    if name not in ("mul", "div") and dtype_of(user) != dtype_of(value):
        return False  # autocast keeps a copy
    return not wanted.isdisjoint(f for f in factors if isinstance(f, fx.Node))


def _hands_on(node: fx.Node) -> bool:
    """Whether a node's value is its argument's storage, seen another way."""
    if node.op == "call_module":
        module = module_of(node)
        return isinstance(module, nn.Identity) or (
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0
        )
    return is_view(node) and op(node) not in CASTS - {"contiguous"} and not _copies(node)


def _copies(view: fx.Node) -> bool:
    """Whether what may return a view makes a copy, as the strides that a tracer has noted tell.

    Where it has noted none, a view is made contiguous because it is not.
    """
    if not view.args or not isinstance(view.args[0], fx.Node):
        return False
    source = traced(view.args[0])
    if source is None:
        return op(view) == "contiguous" and is_view(view.args[0])
    if not isinstance(source, torch.Tensor) or source.layout is not torch.strided:
        return False
    sizes, strides = ([hint(n) for n in given] for given in (source.size(), source.stride()))
    if None in sizes + strides:
        return False
    with plainly():
        given = torch.empty_strided(sizes, strides, dtype=source.dtype, device="meta")
        rest = fx.map_arg(view.args[1:], lambda node: _sized(traced(node)))
        result = call(view, (given, *rest), view.kwargs)
    return isinstance(result, torch.Tensor) and _storage(result) != _storage(given)


def _sized(value: Any) -> Any:
    return hint(value) if isinstance(value, torch.SymInt) else value


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata
