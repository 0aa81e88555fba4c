"""What a step does not accept, each in a sentence that names the block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from .couplings import Coupling, Streams

if TYPE_CHECKING:
    from .arithmetic import Arithmetic

Tensor = torch.Tensor
_T = TypeVar("_T")


def check_output(label: str, f: Any) -> None:
    """Raise TypeError unless a block gave a tensor."""
    if not isinstance(f, Tensor):
        raise TypeError(f"{label} returned {type(f).__name__}: a block returns one tensor")


def joined(
    label: str, coupling: Coupling, streams: Streams, f: Tensor, join: Callable[[], _T]
) -> _T:
    """Return `join()`, a step of these streams; name the block where it fails."""
    try:
        return join()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{label} gave shape {list(f.shape)} for streams of {list(streams[0].shape)}, and "
            f"{type(coupling).__name__} cannot join them: {error}"
        ) from error


def check_shapes(
    label: str, coupling: Coupling, before: Streams, f: Tensor, after: Streams
) -> None:
    """Raise ValueError where a stream changed its shape."""
    changed = any(x.shape != y.shape for x, y in zip(before, after, strict=True))
    if changed and coupling.keeps_shape:
        raise ValueError(
            f"{label} gave shape {list(f.shape)} where the streams have {list(before[0].shape)}: "
            "in a reversible chain streams keep their shape; put what changes it between two "
            "chains, or in a Bijection if it only moves elements"
        )


def check_untouched(label: str, stream: Tensor, version: int) -> None:
    """Raise RuntimeError if a block changed in place what it read."""
    if stream._version != version:
        raise RuntimeError(_IN_PLACE.format(label))


@contextlib.contextmanager
def reading(label: str) -> Iterator[None]:
    """Name the block that writes to its input, of which torch says that it is a leaf."""
    try:
        yield
    except RuntimeError as error:
        if "is being used in an in-place operation" not in str(error):
            raise
        raise RuntimeError(_IN_PLACE.format(label)) from error


_IN_PLACE = "{} changes its input in place, and that is needed once more: use inplace=False"


def check_not_sharded(label: str, block: Any) -> None:
    """Raise RuntimeError if FSDP2 was applied within a block."""
    modules = block.modules() if isinstance(block, torch.nn.Module) else ()
    if any(hasattr(type(module), "set_reshard_after_backward") for module in modules):
        raise RuntimeError(
            f"{label} is sharded within the reversible chain, whose backward would not find its "
            "gradients: shard the steps, `for step in model: fully_shard(step)`, not the blocks"
        )


def check_unchanged(label: str, parameters: Iterable[Tensor], versions: Iterable[int]) -> None:
    """Raise RuntimeError if a parameter was changed since the forward."""
    if any(p._version != v for p, v in zip(parameters, versions, strict=True)):
        raise RuntimeError(
            f"a parameter of {label} was changed in place after the forward that this backward "
            "belongs to (by an optimizer's step, or one fused into an earlier backward): the block "
            "cannot be computed again as it was"
        )


def refuse_second_order() -> None:
    """Raise RuntimeError in a backward with create_graph=True."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the gradient of a reversible chain cannot be differentiated again "
            "(create_graph=True): use memory='none' for this model"
        )


@torch.no_grad()
def check_inverse(
    label: str, arithmetic: Arithmetic, coupling: Coupling, before: Any, after: Any, f: Tensor
) -> bool:
    """Raise ValueError where a step cannot be undone: off by more than half of the digits.

    Return whether these streams can tell: empty ones, zeros and what is not finite cannot.
    """
    back = arithmetic.back(after, coupling, arithmetic.source(after, coupling), f)
    streams, undone = arithmetic.values(before), arithmetic.values(back)
    largest = _largest(*streams, *arithmetic.values(after))
    if not 0 < largest < float("inf"):
        return False
    error = _largest(*(x - y for x, y in zip(streams, undone, strict=True))) / largest
    allowed = torch.finfo(streams[0].dtype).eps ** 0.5
    if not error <= allowed:
        raise ValueError(
            f"{label}: {coupling} does not invert: on this batch its inverse is off by {error:.2g} "
            f"of the largest value, and rounding explains {allowed:.2g} at most"
        )
    return True


def _largest(*tensors: Tensor) -> float:
    """Return the largest magnitude; NaN where there is one."""
    found = [float(x.abs().max()) for x in tensors if x.numel()]
    return float(torch.tensor(found or [0.0], dtype=torch.float64).amax())


def check_captured(label: str, outputs: Iterable[Tensor], known: Iterable[Tensor]) -> None:
    """Raise ValueError if outputs depend on a leaf that is not among the known ones.

    Its gradient would be lost: a block that is computed in the backward has as inputs its own
    parameters and arguments, and nothing that it finds elsewhere.
    """
    known = tuple(known)
    expected = {id(tensor) for tensor in known}
    pending = [out.grad_fn for out in outputs if out.grad_fn is not None]
    seen = {*pending, *(tensor.grad_fn for tensor in known)}
    while pending:
        node = pending.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in expected:
            raise ValueError(
                f"{label} (or its coupling) uses a tensor of shape {list(leaf.shape)} that "
                "requires grad and is neither its parameter nor an argument of the call: register "
                "it on the block, or pass it as an argument"
            )
        below = {fn for fn, _ in node.next_functions if fn is not None} - seen
        seen |= below
        pending.extend(below)
