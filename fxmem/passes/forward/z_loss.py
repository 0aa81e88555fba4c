"""The square of log-sum-exp that is added to a loss, so that logits stay small.

loss + z * logsumexp(logits, -1).square().mean(), with its factors in any order (Chowdhery et al.,
PaLM, arXiv 2204.02311, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxmem.passes.forward.dialect import op
from fxmem.passes.forward.effects import readers
from fxmem.passes.forward.loss_path import CASTS, SHAPES, SWAPS, classes_at
from fxmem.passes.forward.losses import LOG_SOFTMAX, Loss
from fxmem.passes.forward.traced import shape_of

# What lies between rows and the loss without picking some of them.
SAME_ROWS = CASTS | SHAPES | SWAPS | LOG_SOFTMAX | {"flatten"}


@dataclass(frozen=True)
class ZLoss:
    """`loss + factor * reduction(logsumexp²)`; its nodes from log-sum-exp to the sum."""

    nodes: tuple[fx.Node, ...]
    factor: float
    reduction: str


def find_z_loss(loss: Loss) -> ZLoss | None:
    """Return the z-loss that is added to a loss of the same rows, if there is one."""
    for i, node in enumerate((*loss.path, loss.linear)):
        if any(op(nearer) not in SAME_ROWS for nearer in loss.path[:i]):
            return None
        for user in readers(node):
            if op(user) == "logsumexp" and _of_rows(user):
                return _followed(user, loss)
    return None


def _of_rows(node: fx.Node) -> bool:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = dim if isinstance(dim, list | tuple) else [dim]
    rank = len(shape_of(node.args[0]) or ())
    if rank == 0 or node.args[2:] or node.kwargs.get("keepdim"):
        return False
    return [d % rank for d in dims if d is not None] == [classes_at(node.args[0])]


def _followed(node: fx.Node, loss: Loss) -> ZLoss | None:
    """Walk from log-sum-exp to the sum with the loss; None where the way is another."""
    nodes, factor, power, reduction = [node], 1.0, 1, ""
    while len(users := readers(node)) == 1:
        node, before = users[0], node
        nodes.append(node)
        name, numbers = op(node), [arg for arg in node.args if isinstance(arg, int | float)]
        if name in ("add", "add_", "iadd") and loss.exit in node.args and not node.kwargs:
            done = power == 2 and reduction and factor > 0 and len(node.all_input_nodes) == 2
            return ZLoss(tuple(nodes), factor, reduction) if done else None
        if name == "mul" and len(numbers) == 1 and power == 2:
            factor *= numbers[0]
        elif power == 1 and _squares(node, before, numbers):
            power = 2
        elif name in ("mean", "sum") and power == 2 and not reduction and len(node.args) == 1:
            reduction = name
        else:
            return None
    return None


def _squares(node: fx.Node, of: fx.Node, numbers: list[float]) -> bool:
    if op(node) == "mul":
        return node.args[:2] == (of, of)
    return op(node) == "square" or (op(node) == "pow" and numbers == [2])
