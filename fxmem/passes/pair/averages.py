"""Weights of an average that is a quotient of sums, as of unnormalised attention.

The backward weighs what the sums are of by w / Σ w. A softmax's largest weight is one; of the
exponentials of a graph's edges a group of codes holds those of nodes whose sums differ by powers of
ten, and their error is divided by the smallest: of scores with a deviation of 3 the gradient was
50 % off with 8 bits, and without a bound with 4.
"""

from __future__ import annotations

from torch import fx

from fxmem.passes.graph import ancestors, aten, is_view, numel, op_name, owner, tensor
from fxmem.passes.operators import CAST_NAMES, is_cast
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.sensitivity import is_elementwise

ADDING = {"sum", "mean", "add", "sub", "neg", "abs", "where", "clamp", "clamp_min", "maximum"}
ADDING |= {"cumsum", "index_put", "index_add", "scatter_add", "scatter_reduce", "clone"}
GATHERING = {f"aten.{op}" for op in ("index", "gather", "index_select")}
ADDING = {f"aten.{op}" for op in ADDING} | CAST_NAMES | GATHERING
PRODUCTS = ("aten.mul", "aten.mm", "aten.bmm")
EXPONENTIALS = ("aten.exp", "aten.exp2")
WEIGHTS = "weights of an average: an error in them is divided by the smallest of their sums"


def weights(pair: Pair) -> set[fx.Node]:
    """Return the forward's nodes that such weights are, or what is made of them by adding."""
    found: set[fx.Node] = set()
    for node in pair.forward.graph.nodes:
        if is_average(node):
            terms = _terms(node)
            found |= {owner(n) for n in terms if _adds(n) or is_elementwise(n)}
            found |= {n for n in _factors(terms) if op_name(n) in EXPONENTIALS}
    return found


def is_average(node: fx.Node) -> bool:
    """Whether sums of products are divided by the sums of their weights, several by each."""
    whole = divisor(node)
    if whole is None or not (_is_gathered(whole) or _is_broadcast(whole, node)):
        return False
    terms = _terms(node)
    divided = [n for n in node.all_input_nodes if n is not whole and not _inverts(source(n))]
    own = ancestors(divided, lambda n: not is_elementwise(n))
    if not _is_gathered(whole) and any(n in terms and _is_real(n) for n in own):
        return False  # a norm, or a softmax: what it is of is as large as its sum
    shared = {n for n in terms | _factors(terms) if _is_real(n)}
    first = min(shared, default=node)
    return not shared.isdisjoint(ancestors(divided, lambda n: n < first))


def divisor(node: fx.Node) -> fx.Node | None:
    """Return what a quotient is divided by, None of anything else."""
    if node.target is aten.mul.Tensor:
        inverse = [n for n in map(source, node.all_input_nodes) if _inverts(n)]
        return inverse[-1].args[0] if inverse else None
    is_quotient = node.target is aten.div.Tensor and tensor(node.args[1]) is not None
    return node.args[1] if is_quotient else None


def source(node: fx.Node) -> fx.Node:
    """Return what a node is a view, a cast or once its value of."""
    while is_view(node) or is_cast(node) or _is_multiple(node):
        node = node.args[0]
    return node


def _is_multiple(node: fx.Node) -> bool:
    """Whether a node is its first argument times one, as a norm's factor in use is."""
    return node.target is aten.mul.Tensor and node.args[1] in (1, 1.0)


def _inverts(node: fx.Node) -> bool:
    return node.target is aten.reciprocal.default


def _is_broadcast(whole: fx.Node, quotient: fx.Node) -> bool:
    return (numel(owner(whole)) or 0) < (numel(quotient) or 0)


def _is_gathered(whole: fx.Node) -> bool:
    return op_name(owner(whole)) in GATHERING


def _adds(node: fx.Node) -> bool:
    return op_name(node) in ADDING or is_view(node)


def _terms(quotient: fx.Node) -> set[fx.Node]:
    """Return what is added up to a quotient's divisor, and the sums."""
    return set(ancestors([divisor(quotient)], lambda n: not _adds(n)))


def _factors(terms: set[fx.Node]) -> set[fx.Node]:
    """Return what terms are products of."""
    products = [n for n in terms if op_name(n) in PRODUCTS]
    return set(ancestors(products, lambda n: not (_adds(n) or op_name(n) in PRODUCTS)))


def _is_real(node: fx.Node) -> bool:
    value = tensor(node)
    return value is not None and value.is_floating_point() and node.op == "call_function"
