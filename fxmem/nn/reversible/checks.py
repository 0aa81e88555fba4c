"""What a step does not accept, each in a sentence that names the block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.nn.parameter import is_lazy

from fxmem.ops.eager import is_transformed

from .couplings import Coupling, Streams

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
    """Name the block that writes to its input, of which torch says that it is a leaf or a part."""
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in _WRITTEN):
            raise
        raise RuntimeError(_IN_PLACE.format(label)) from error


_WRITTEN = "is being used in an in-place operation", "is being modified inplace"
_IN_PLACE = "{} changes its input in place, and that is needed once more: use inplace=False"


def check_not_transformed(label: str) -> None:
    """Raise RuntimeError under torch.func, which would differentiate otherwise than a step does."""
    if is_transformed():
        raise RuntimeError(
            f"{label} is undone by backward() and torch.autograd.grad alone, not by torch.func: "
            'memory="none" is a chain that torch.func takes'
        )


def check_not_sharded(label: str, block: Any) -> None:
    """Raise RuntimeError if FSDP2 was applied within a block."""
    modules = block.modules() if isinstance(block, torch.nn.Module) else ()
    if any(hasattr(type(module), "set_reshard_after_backward") for module in modules):
        raise RuntimeError(
            f"{label} is sharded within the reversible chain, whose backward would not find its "
            "gradients: shard the steps, `for step in model: fully_shard(step)`, not the blocks"
        )


def check_initialized(label: str, parameters: Iterable[Tensor]) -> None:
    """Raise RuntimeError for parameters that a lazy layer makes in its first call."""
    if any(map(is_lazy, parameters)):
        raise RuntimeError(
            f"{label} has lazy layers, whose parameters have no shape yet: call the model once "
            "under torch.no_grad(), before its optimizer is made, and they have"
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
