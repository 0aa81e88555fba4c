"""Which weights the graph rule `integer` has quantized, and how: read from what it has made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import fx, nn

from fxmem.integer.functional import OPERATORS
from fxmem.integer.methods import BINARY, method_of
from fxmem.quantizers import Quantizer

from .sites import Site, find


def rewritten(
    model: nn.Module, layers: fx.GraphModule | Mapping[str, str]
) -> list[tuple[Site, Quantizer]]:
    """The weights that layers in integers alone compute with, and what these quantize them by.

    `layers` is as `pack_model` says. Raises ValueError for names and methods that there are not,
    for a graph of another model and for one without such weights; TypeError for other `layers`.
    """
    sites = find(model)
    if isinstance(layers, fx.GraphModule):
        found = _used(layers)
        found = {site: found[site.parameter] for site in sites if site.parameter in found}
        if not found:
            raise ValueError(
                "no layer of this graph computes in integers with a weight of "
                f"{type(model).__name__}: give what fxmem.transform returned for this very model"
            )
    elif isinstance(layers, Mapping):
        found = {_named(sites, name): method for name, method in layers.items()}
    else:
        raise TypeError(
            "layers must be the graph that fxmem.transform returned, or the rule's method for each "
            f"layer's name; got {layers!r}"
        )
    return [(site, _quantizer(method)) for site, method in found.items()]


def _named(sites: list[Site], name: str) -> Site:
    for site in sites:
        if site.parameter is not None and any(
            name in (place.name, place.name.removesuffix(".weight")) for place in site.places
        ):
            return site
    raise ValueError(f"the model has no layer {name!r} with a weight of its own")


def _quantizer(method: str) -> Quantizer:
    found = BINARY[method] if method in BINARY else method_of(method)
    return found.weight


def _used(gm: fx.GraphModule) -> dict[torch.Tensor, str]:
    """The method of each tensor that nothing but layers in integers, of one method, reads."""
    uses: dict[torch.Tensor, set[str | None]] = {}
    for graph in (module for module in gm.modules() if isinstance(module, fx.GraphModule)):
        for node in graph.graph.nodes:
            for tensor, method in _reads(node):
                uses.setdefault(tensor, set()).add(method)
    single = {tensor: used.pop() for tensor, used in uses.items() if len(used) == 1}
    return {tensor: method for tensor, method in single.items() if method is not None}


def _reads(node: fx.Node) -> Iterator[tuple[torch.Tensor, str | None]]:
    """The parameters that a node reads, each with its method, None where that is no integers'."""
    owner = node.graph.owning_module
    if node.op == "call_module":
        module = owner.get_submodule(node.target)
        if not isinstance(module, fx.GraphModule):
            yield from ((parameter, None) for parameter in module.parameters())
    elif node.op == "get_attr":
        value = functools.reduce(getattr, node.target.split("."), owner)
        if isinstance(value, torch.Tensor):
            yield from ((value, method) for method in _methods(node))


def _methods(node: fx.Node) -> Iterator[str | None]:
    for user in node.users:
        if user.target is torch.unsqueeze:  # a convolution of one dimension, as one of two
            yield from _methods(user)
        else:
            weight = user.target in OPERATORS and user.args[1] is node
            yield user.args[-1] if weight else None
