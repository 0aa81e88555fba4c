"""What exponentials are taken of, and what they are compared with: no code of few bits serves.

An absolute error in a logit is a relative one of its probability. The gradient of a log-softmax is
g - p Σ g: of soft targets t, where g = -t, the difference of probabilities that training brings
near each other. Of a student near its teacher, t in 8 and 4 bits costs 11 and 890 % of the
gradient. Running sums of log gates have the range of all their terms, whose differences are what
counts: with 1024 steps and 8 bits, 14 %.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from fxmem.passes.graph import ancestors, aten, is_view, op_name, owner, tensor
from fxmem.passes.operators import is_cast
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.sensitivity import is_elementwise

NORMALISERS = ("aten.log", "aten.logsumexp")
EXPONENTIALS = ("aten.exp", "aten.exp2", "aten.expm1")
LOGITS = "logits: an error in them is a relative one of every probability of the loss"
TARGETS = "soft targets: the gradient is their small difference from the loss's probabilities"
SUMS = "a running sum that exponentials are taken of: an error grows with its length"


def exponents(pair: Pair) -> dict[fx.Node, str]:
    """Return the forward's nodes that no code serves for what exponentials do, each with why."""
    found = {**dict.fromkeys(_running_sums(pair), SUMS), **dict.fromkeys(_targets(pair), TARGETS)}
    return found | dict.fromkeys(logits(pair), LOGITS)


def logits(pair: Pair) -> set[fx.Node]:
    """Return the forward's nodes that are logits of a log-softmax, its results or their exp.

    And logits of log-sum-exp, of which the backward alone makes probabilities.
    """
    subtractions = pair.forward.graph.find_nodes(op="call_function", target=aten.sub.Tensor)
    found = _made_of(n for n in subtractions if _is_normaliser(n.args[1]))
    exponentials = pair.forward.graph.find_nodes(op="call_function", target=aten.exp.default)
    found |= {n for n in exponentials if owner(n.args[0]) in found}
    return found | _log_sum_inputs(pair)


def _log_sum_inputs(pair: Pair) -> set[fx.Node]:
    """Return what the backward takes exp(x - log Σ exp(x)) of, or of running sums."""
    own = {n.name: n for n in pair.forward.graph.nodes}
    running = pair.forward.graph.find_nodes(op="call_function", target=aten.logcumsumexp.default)
    found = {*running, *_made_of(n.args[0] for n in running)}
    for node in pair.backward.graph.find_nodes(op="call_function", target=aten.exp.default):
        shifted = _uncast(node.args[0])
        if shifted.target is aten.sub.Tensor and isinstance(shifted.args[1], fx.Node):
            x, total = shifted.args[0], _uncast(shifted.args[1])
            if _is_log_sum(own.get(total.name, total)):
                found |= {owner(own[n.name]) for n in _made_of([x]) if n.name in own}
    return found


def _targets(pair: Pair) -> set[fx.Node]:
    """Return what the gradient g of a log-softmax's result is made of: its own is g - p Σ g."""
    own, slopes = {n.name: n for n in pair.forward.graph.nodes}, []
    for node in pair.backward.graph.find_nodes(op="call_function", target=aten.sub.Tensor):
        slope, rest = map(_uncast, node.args)
        if isinstance(rest, fx.Node) and rest.target is aten.mul.Tensor:
            factors = [_uncast(n) for n in rest.all_input_nodes]
            is_sum = any(op_name(f) == "aten.sum" and _uncast(f.args[0]) is slope for f in factors)
            slopes += [slope] if is_sum and any(map(_is_exponential, factors)) else []
    return {owner(own[n.name]) for n in _made_of(slopes) if n.name in own}


def _running_sums(pair: Pair) -> set[fx.Node]:
    """Return running sums of which exponentials are taken, and what lies in between."""
    exponentials = (n for n in pair.forward.graph.nodes if _is_exponential(n))
    exponents = _made_of(n.args[0] for n in exponentials)
    found: set[fx.Node] = set()
    for node in pair.forward.graph.nodes:
        starts = node.target is aten.cumsum.default
        follows = is_elementwise(node) and not found.isdisjoint(node.all_input_nodes)
        value = tensor(node) if node in exponents and (starts or follows) else None
        if value is not None and value.is_floating_point():
            found.add(node)
    return found


def _made_of(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return what nodes are made of element by element, themselves included."""
    return set(ancestors(nodes, lambda n: not (is_elementwise(n) or n.target is aten.cat.default)))


def _is_exponential(node: fx.Node | float) -> bool:
    return isinstance(node, fx.Node) and op_name(node) in EXPONENTIALS


def _is_log_sum(value: fx.Node) -> bool:
    """Whether a value is log(sum) + largest."""
    logs = [n for n in map(_uncast, _uncast(value).all_input_nodes) if op_name(n) == "aten.log"]
    is_sum = any(op_name(_uncast(log.args[0])) == "aten.sum" for log in logs)
    return is_sum and op_name(_uncast(value)) == "aten.add"


def _uncast(value: fx.Node | float) -> fx.Node | float:
    while isinstance(value, fx.Node) and (is_view(value) or is_cast(value)):
        value = value.args[0]
    return value


def _is_normaliser(value: fx.Node | float) -> bool:
    return isinstance(value, fx.Node) and op_name(_uncast(value)) in NORMALISERS
