"""What must hold of a block that is computed again in the backward, each in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch

Tensor = torch.Tensor
# So many elements, about, are kept of a block's input and output, until it is computed again.
SAMPLE = 64


def check_captured(
    label: str, outputs: Iterable[Tensor], known: Iterable[Tensor], others: Iterable[Any]
) -> None:
    """Raise ValueError if outputs depend on a leaf that is not among the known ones.

    Its gradient would be lost: a block that is computed in the backward has as inputs its own
    parameters and arguments, and nothing that it finds elsewhere. The search ends at known tensors,
    leaves or not; `others` are the arguments that are no tensors.
    """
    known = tuple(known)
    expected = {id(tensor) for tensor in known}
    seen = {None, *(tensor.grad_fn for tensor in known)}
    pending = [out.grad_fn for out in outputs]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending.extend(below for below, _ in node.next_functions)
        is_leaf = isinstance(node, torch._C._functions.AccumulateGrad)
        if is_leaf and id(node.variable) not in expected:
            raise ValueError(
                f"{label} (or its coupling) uses a tensor of shape {list(node.variable.shape)} "
                "that requires grad and is neither its parameter nor an argument of the call: "
                f"register it on the block, or pass it as an argument{_unseen(others)}"
            )


def _unseen(others: Iterable[Any]) -> str:
    """Name the arguments that may hold tensors which nobody sees."""
    names = sorted({type(x).__name__ for x in others if hasattr(x, "__dict__") and not callable(x)})
    if not names:
        return ""
    return (
        f"; tensors inside an argument of type {', '.join(names)} are not seen: pass them by "
        "themselves, or in tuples, lists or dicts"
    )


class Sample(NamedTuple):
    """Some elements of what a block read and gave, as numbers on the host."""

    read: list[complex]
    gave: list[complex]

    @classmethod
    def of(cls, source: Tensor, f: Tensor) -> Sample:
        """Take elements at the same places each time."""
        return cls(_elements(source), _elements(f))


def _elements(x: Tensor) -> list[complex]:
    flat = x.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)].tolist()


def check_repeated(label: str, first: Sample, again: Sample, eps: float) -> bool:
    """Raise RuntimeError where a block gave something else than when it was called first.

    A tenth of what it gave is let through, and of what it read half of the digits, in which the
    stream may be off by then; one that has drifted further explains anything. Return whether they
    can tell: empty ones, and what is not finite, cannot.
    """
    read, size = _size(first.read), _size(first.gave)
    drift, off = _distance(first.read, again.read), _distance(first.gave, again.gave)
    if not first.gave or not math.isfinite(read + size + drift + off):
        return False
    rounding = eps**0.5 * read
    if drift <= rounding and off > 0.1 * size + rounding:
        raise RuntimeError(
            f"{label} gave something else when it was computed again in the backward (off by "
            f"{off:.2g}, of {size:.2g}): it depends on what it changes itself and is no buffer (a "
            "counter, a torch.Generator of its own), or on a setting that was another by then"
        )
    return True


def _size(values: Sequence[complex]) -> float:
    """Return the root of the mean square."""
    return math.sqrt(math.fsum(abs(x) ** 2 for x in values) / max(1, len(values)))


def _distance(some: Sequence[complex], others: Sequence[complex]) -> float:
    return _size([x - y for x, y in zip(some, others, strict=True)])


def close(label: str, leaves: Iterable[Tensor]) -> None:
    """Let a gradient that reaches these leaves from now on raise RuntimeError.

    What a block leaves behind when it is computed again has a graph that ends there.
    """

    def refuse(gradient: Tensor) -> NoReturn:
        raise RuntimeError(
            f"a tensor that {label} left behind when it was computed again in the backward is "
            "differentiated: its graph ends within the reversible chain; take it (an auxiliary "
            "loss, router logits) after the forward and add it to the loss, in one backward"
        )

    for leaf in leaves:
        if leaf.requires_grad:
            leaf.register_hook(refuse)
