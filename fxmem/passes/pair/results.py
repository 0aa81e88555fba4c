"""What the forward makes of a value is kept in its place, where nothing else reads the value.

So are the results of pointwise functions that a layer reads, as of a ReLU between two of them: they
are in memory anyway, and the backward does not make them again, beside the values, for the next
layer's gradient and for its own mask. (Codes are undone where they are read: of values that are
encoded only a softmax's are.)

The cut may keep attention's logits, and the backward make the probabilities of them again. Those
take as many bytes; the largest and the sum of each row are then not needed; and an error in a code
of them stays in proportion to them, while an error in the logits is exponentiated: of logits with a
standard deviation of 1, 2, 4 or 8 codes of 4 bits cost 12, 20, 46 and 201 % of the gradient of one
attention, of 8 bits .8, 1.2, 2.9 and 10 %; codes of the probabilities 11, 21, 47 and 85 %, and 1.0,
1.6, 1.7 and 1.6 %.
"""

from __future__ import annotations

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import ancestors, aten, from_tangents, is_view, nbytes
from fxmem.passes.operators import is_pointwise
from fxmem.passes.pair.eligible import why_exact, why_shared
from fxmem.passes.pair.graphs import Pair
from fxmem.passes.pair.hoist import passed
from fxmem.passes.pair.sensitivity import is_probability
from fxmem.policy import Policy

LAYERS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution}


def keep_results(pair: Pair, policy: Policy) -> None:
    """Keep what is made of a kept value, where it is no larger and all that is read.

    Encoded a probability is no larger where its dtype is.
    """
    own = {n.name: n for n in pair.forward.graph.nodes if n.op == "call_function"}
    tainted = from_tangents(pair.backward.graph)
    found = []
    for storage in pair.storages():
        if why_shared(pair, storage) is not None:
            continue
        coded = policy.lossy and why_exact(pair, storage, policy) is None
        for node in reversed([n for n in passed(pair, storage, tainted) if n.name in own]):
            if is_probability(own[node.name]):
                fits = coded or nbytes(node) <= storage.nbytes
            else:
                fits = not coded and _is_read(node, own[node.name], storage.nbytes)
            if fits:
                found.append(node)
                break
    for node in dict.fromkeys(found):
        node.replace_all_uses_with(pair.keep(own[node.name]))
    if found:
        pair.prune()


def _is_read(node: fx.Node, made: fx.Node, most: int) -> bool:
    """Whether a layer of the forward reads a pointwise result, of so many bytes at most."""
    if is_view(node) or not 0 < nbytes(node) <= most:
        return False
    steps = ancestors([node], lambda n: n.op != "call_function")
    asked = any(n.meta.get("recompute") == CheckpointPolicy.MUST_RECOMPUTE for n in steps)
    pointwise = (n.op != "call_function" or is_view(n) or is_pointwise(n) for n in steps)
    return not asked and all(pointwise) and _reaches_layer(made)


def _reaches_layer(made: fx.Node) -> bool:
    readers = [made]
    for node in readers:
        readers += [user for user in node.users if is_view(user)]
    called = {getattr(user.target, "overloadpacket", None) for n in readers for user in n.users}
    return not called.isdisjoint(LAYERS)
