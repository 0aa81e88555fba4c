"""Weight gradients from sketches: dYᵀ X becomes (S dY)ᵀ (S X), of which S X is all that is kept.

S X is computed in the forward, once for all products of one X; S comes from a seed, and the
backward draws it again. The gradients of everything but the weights stay as they are.
(Novikov et al., Memory-Efficient Backpropagation through Large Linear Layers, 2022.)
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.compat import saved_descriptors
from fxmem.passes.emit import emit
from fxmem.passes.graph import SKETCH_OF, aten, describe, nbytes, owner, tensor
from fxmem.passes.joint.sketches.products import Product, value_of
from fxmem.passes.pair.graphs import size_arguments

CLAIMED = "fxmem_claimed"  # in the meta of what the forward makes for the backward alone


@dataclass(frozen=True)
class Site:
    """A product, the kind of S, the rows of the product's factors and how many are kept of them."""

    product: Product
    kind: str
    rows: int | torch.SymInt
    kept: int | torch.SymInt

    @property
    def shared(self) -> Hashable:
        """What sites must have in common to share a sketch."""
        return (value_of(self.product.x), self.product.left, self.kind, str(self.kept))


def rewrite(joint: fx.GraphModule, sites: Iterable[Site], num_outputs: int) -> int:
    """Put sketches in the place of these products' factors.

    Returns how many outputs the forward has by then. The cut would compute in the backward what no
    output of the forward needs, however it is marked: until :func:`release`, sketches are outputs.
    """
    groups: dict[Hashable, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.shared, []).append(site)
    seeds = _seeds(joint.graph, [group[0] for group in groups.values()])
    for seed, group in zip(seeds, groups.values(), strict=True):
        kept, key = _project(joint.graph, group[0], seed)
        for site in group:
            _replace(joint.graph, site, kept, key)
    claimed = [node for node in joint.graph.nodes if CLAIMED in node.meta]
    _insert_outputs(joint.graph, num_outputs, claimed)
    joint.graph.eliminate_dead_code()
    joint.graph.lint()
    return num_outputs + len(claimed)


def release(forward: fx.GraphModule, num_outputs: int) -> int:
    """Return sketches to the backward alone, and how many outputs are then the caller's."""
    output = forward.graph.output_node()
    returned, described = output.args[0], output.meta.get("desc")
    keep = [
        i
        for i, node in enumerate(returned)
        if i >= num_outputs or not isinstance(node, fx.Node) or CLAIMED not in node.meta
    ]
    output.args = (tuple(returned[i] for i in keep),)
    if described is not None:
        output.meta["desc"] = [described[i] for i in keep]
    return num_outputs - (len(returned) - len(keep))


def _insert_outputs(graph: fx.Graph, at: int, nodes: list[fx.Node]) -> None:
    output = graph.output_node()
    returned = list(output.args[0])
    output.args = ([*returned[:at], *nodes, *returned[at:]],)
    if "desc" in output.meta:
        described = list(output.meta["desc"])
        output.meta["desc"] = [*described[:at], *saved_descriptors(nodes), *described[at:]]


def _seeds(graph: fx.Graph, sites: list[Site]) -> list[fx.Node]:
    """Draw a seed for each sketch: one draw a device, for a draw is a kernel."""
    devices = [tensor(site.product.x).device for site in sites]
    places: dict[torch.device, int] = {}
    drawn: dict[torch.device, fx.Node] = {}
    seeds = []
    with graph.inserting_before(_first_call(graph)):
        for device in dict.fromkeys(devices):
            target = torch.ops.prims.inductor_seeds.default
            drawn[device] = _saved(emit(graph, target, devices.count(device), device))
        for device in devices:
            at = places[device] = places.get(device, -1) + 1
            seeds.append(emit(graph, aten.slice.Tensor, drawn[device], 0, at, at + 1))
    return seeds


def _first_call(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))


def _saved(node: fx.Node) -> fx.Node:
    node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    node.meta[CLAIMED] = True
    return node


def _project(graph: fx.Graph, site: Site, seed: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Sketch X where it is made; return S X and what S comes from."""
    x = site.product.x
    with graph.inserting_before(max(_first_call(graph), seed, x).next):
        rows = _rows(graph, site.product, x, site.product.left)
        (count,) = size_arguments(graph, [site.kept])
        if site.kind == "crs_norm":
            both = emit(graph, torch.ops.fxmem.sample.default, rows, count, seed, like=x)
            kept, key = (emit(graph, operator.getitem, both, i, like=x) for i in range(2))
            _saved(key)
        else:
            target = torch.ops.fxmem.sketch.default
            kept, key = emit(graph, target, rows, site.kind, count, seed, like=x), seed
    how = f"{site.kind}, {site.kept} of {site.rows} rows"
    kept.meta[SKETCH_OF] = (describe(owner(x), x.name, nbytes(x)), how)
    return _saved(kept), key


def _replace(graph: fx.Graph, site: Site, kept: fx.Node, key: fx.Node) -> None:
    product = site.product
    with graph.inserting_before(product.node):
        y = _rows(graph, product, product.y, not product.left)
        if site.kind == "crs_norm":
            sketch = emit(graph, aten.index_select.default, y, 0, key, like=product.node)
        else:
            given = (y, site.kind, *size_arguments(graph, [site.kept]), key)
            sketch = emit(graph, torch.ops.fxmem.sketch.default, *given, like=product.node)
        first, second = (kept, sketch) if product.left else (sketch, kept)
        first = emit(graph, aten.permute.default, first, [1, 0], like=product.node)
        grad = emit(graph, aten.mm.default, first, second, like=product.node)
        if list(tensor(product.node).shape) != list(tensor(grad).shape):
            shape = list(tensor(product.node).shape)
            grad = emit(graph, aten.view.default, grad, shape, like=product.node)
        if product.is_convolution:
            _without_weight(graph, product.node.args[0])
    product.node.replace_all_uses_with(grad)


def _rows(graph: fx.Graph, product: Product, factor: fx.Node, turned: bool) -> fx.Node:
    """Return a factor as a matrix of as many rows as the product sums over."""
    if product.is_convolution:
        last = [0, *range(2, tensor(factor).dim()), 1]
        value = emit(graph, aten.permute.default, factor, last, like=factor)
        shape = [-1, tensor(value).size(-1)]
        return emit(graph, aten.reshape.default, value, shape, like=factor)
    if tensor(factor).dim() == 3:
        factor = emit(graph, aten.select.int, factor, 0, 0, like=factor)
    return emit(graph, aten.permute.default, factor, [1, 0], like=factor) if turned else factor


def _without_weight(graph: fx.Graph, backward: fx.Node) -> None:
    """Compute the other gradients of a convolution of single points without its input."""
    y, _, weight, _, *call, mask = backward.args
    points = list(range(2, tensor(weight).dim()))
    for user in list(backward.users):
        index = user.args[1]
        if index == 0 and mask[0]:
            turned = emit(graph, aten.permute.default, weight, [1, 0, *points], like=user)
            other = emit(graph, aten.convolution.default, y, turned, None, *call, like=user)
        elif index == 2 and mask[2]:
            other = emit(graph, aten.sum.dim_IntList, y, [0, *points], like=user)
        else:
            continue
        user.replace_all_uses_with(other)
