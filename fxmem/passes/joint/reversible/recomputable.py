"""What of a reversible chain may be computed a second time: not draws, effects or communication."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import ancestors, owner
from fxmem.passes.joint.reversible.chains import Chain, Link
from fxmem.passes.operators import is_drawn

# Two links alone may be chance: a term added within the branch of a residual makes as many.
SHORTEST = 3


def cone(link: Link) -> list[fx.Node]:
    """Return what computes a link's sides from its stream, in order: the nodes between them."""
    above = ancestors(link.sides, lambda n: n is link.stream or n < link.stream)
    between = {link.stream}
    for node in sorted(above):
        # A size is no value: it is the same for the state that comes back.
        if not _is_size(node) and not between.isdisjoint(node.all_input_nodes):
            between.add(node)
    return sorted(between - {link.stream})


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def recomputable(chain: Chain) -> tuple[list[Chain], str | None]:
    """Split a chain at links that cannot be computed twice; say why of the last such link."""
    parts: list[Chain] = [[]]
    last = None
    for link in chain:
        nodes = [*cone(link), *_on_inputs(link)]
        whys = [f"{node.name}: it {why}" for node in nodes if (why := _why_once(node))]
        if whys:
            parts.append([])
            last = whys[0]
        else:
            parts[-1].append(link)
    return [part for part in parts if len(part) >= SHORTEST], last


def _on_inputs(link: Link) -> list[fx.Node]:
    """Return what combines the state with an input: to undo it reads that again."""
    outs = [step.out for step in link.steps]
    return [n for n in outs if any(owner(i).op == "placeholder" for i in n.all_input_nodes)]


def _why_once(node: fx.Node) -> str | None:
    """Return why a node is not to be computed a second time, None where it may be."""
    if _draws(node):
        return "draws random numbers without a seed that could be given again"
    if node.meta.get("recompute") == CheckpointPolicy.MUST_SAVE:
        return "is marked to be kept, or reads an input that is overwritten"
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "is a higher-order operator, whose inside is not looked at"
    if getattr(node.target, "namespace", "").startswith("_c10d_functional"):
        return "communicates between processes"
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or (schema is not None and schema.is_mutable):
        return "has effects beside its result"
    return None


def _draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers; attention without dropout is tagged as if it did."""
    if not is_drawn(node):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    named = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return "dropout_p" not in names or named.get("dropout_p", 0) != 0
