"""Which weight gradients are sketched: what was asked for, what can be, and what pays.

An input that the backward needs anyway (an activation's slope, a norm) is kept with its sketch or
without: then a sketch costs memory. So sites are weighed on a pair that was cut without sketches.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxmem import ops
from fxmem.compat import hint
from fxmem.passes.graph import ancestors, from_tangents, module_path, nbytes, owner
from fxmem.passes.joint.sketches.products import MATRIX, Product, Unfit, find_products
from fxmem.passes.joint.sketches.rewrite import Site
from fxmem.passes.pair.graphs import Pair, Storage
from fxmem.policy import Policy


def find_sites(
    joint: fx.GraphModule, policy: Policy, num_outputs: int, weights: Collection[int]
) -> tuple[list[Site], list[str]]:
    """Return the sites that were asked for, and why others that were cannot be."""
    products = find_products(joint, num_outputs, weights)
    sites, refusals = [], policy.unmatched("sketch", (module_path(p.node) for p in products))
    for product in products:
        ratio = policy.ratio("sketch", module_path(product.node))
        if ratio is None:
            continue
        why = product.why if isinstance(product, Unfit) else _why_not(product, policy, ratio)
        if why is None:
            kind, rows = policy.option("sketch", "kind", "gaussian"), product.rows
            sites.append(Site(product, kind, rows, ops.rows_of(rows, ratio)))
        else:
            refusals.append(_refused(product.node, why))
    return sites, refusals


def _why_not(product: Product, policy: Policy, ratio: float) -> str | None:
    rows = hint(product.rows)
    if rows is None:
        return "how many rows its input has is not known when compiling"
    if ops.rows_of(rows, ratio) >= rows:
        return f"of {rows} rows none would be left out"
    if nbytes(product.x) < policy.min_bytes:
        return f"its input is smaller than min_bytes={policy.min_bytes}"
    return None


def _refused(node: fx.Node, why: str) -> str:
    return f"sketch: {module_path(node) or node.name}: {why}"


def paying(pair: Pair, sites: list[Site]) -> tuple[list[Site], list[str]]:
    """Return the sites whose sketches free more than they keep, and why the others are refused.

    Args:
        pair: the cut of the same joint graph without sketches, encoded or not.
    """
    refusals, backward = [], {node.name: node for node in pair.backward.graph.nodes}
    while True:
        freed = _freed(pair, [backward[site.product.node.name] for site in sites])
        paid = {site.product.node.name for site in sites if _pays(site, freed, backward)}
        if len(paid) == len(sites):
            return sites, refusals
        refusals += left_out(sites, paid)
        sites = [site for site in sites if site.product.node.name in paid]


def _why_costly(site: Site) -> str:
    if owner(site.product.x).op == "placeholder":
        return "its input is the caller's own, in memory anyway"
    return "its input, or what it is recomputed from, is kept for other uses anyway"


def _factor(product: fx.Node, tainted: set[fx.Node]) -> fx.Node:
    """Return the factor that comes from the forward."""
    call = product.args[0] if product.target not in MATRIX else product
    return next(n for n in call.args[:2] if n not in tainted)


def _freed(pair: Pair, products: list[fx.Node]) -> list[Storage]:
    """Return what is kept for these products' inputs alone."""
    tainted = from_tangents(pair.backward.graph)
    skipped = {(p if p.target in MATRIX else p.args[0]): _factor(p, tainted) for p in products}
    needed: set[fx.Node] = set()
    pending = [pair.backward.graph.output_node()]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += [n for n in node.all_input_nodes if n is not skipped.get(node)]
    unread = {n.name for n in pair.backward.graph.find_nodes(op="placeholder") if n not in needed}
    return [s for s in pair.storages() if unread.issuperset(view.name for view in s.views)]


def lost(pair: Pair, sketched: Pair, sites: list[Site]) -> list[Site]:
    """Return the sites whose inputs `pair` makes of what `sketched`, of the same graph, lacks."""
    nodes = {node.name: node for node in pair.backward.graph.nodes}
    kept = {view.name for storage in pair.storages() for view in storage.views}
    lacking = kept - {n.name for n in sketched.backward.graph.find_nodes(op="placeholder")}
    return [site for site in sites if not lacking.isdisjoint(_read(site, nodes))]


def left_out(sites: list[Site], chosen: Collection[str]) -> list[str]:
    """Return why sites that are not among the chosen are refused."""
    others = [site for site in sites if site.product.node.name not in chosen]
    return [_refused(site.product.node, _why_costly(site)) for site in others]


def _read(site: Site, backward: dict[str, fx.Node]) -> set[str]:
    """Return the names of all that a product's input is made of in the backward."""
    product = backward[site.product.node.name]
    factor = _factor(product, from_tangents(product.graph))
    return {n.name for n in ancestors([factor], lambda n: False)}


def _pays(site: Site, freed: list[Storage], backward: dict[str, fx.Node]) -> bool:
    read = _read(site, backward)
    saved = sum(s.nbytes for s in freed if not read.isdisjoint(view.name for view in s.views))
    return saved > nbytes(site.product.x) * hint(site.kept) // hint(site.rows)
