"""What a forward leaves behind for its backward, by storage.

The allocator counts (see ``heap``), so whatever the calling thread leaves alive is seen, wherever
it is held: in saved tensors, on the context of a custom Function, in a hook's closure or on a
module. The autograd graph gives it names. Blocks that were there before are never counted:
parameters, buffers and inputs need no list.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxmem.measure.heap import events
from fxmem.measure.text import MiB, aligned

DEEPEST = 100  # levels at which an output is looked for: as good as all


@dataclass(frozen=True)
class KeptTensor:
    """A storage kept for the backward: who holds it, under which name, and its first view."""

    owner: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class Kept:
    """What a forward leaves behind for its backward; ``unreached`` bytes have no known holder."""

    tensors: tuple[KeptTensor, ...]
    unreached: int

    @property
    def nbytes(self) -> int:
        """All bytes kept, each storage once."""
        return sum(t.nbytes for t in self.tensors) + self.unreached

    def __str__(self) -> str:
        """One line a storage, the biggest first, and the total."""
        rows = [
            (f"{t.nbytes / MiB:.2f}", f"{t.dtype}{list(t.shape)}", f"{t.owner}.{t.name}")
            for t in sorted(self.tensors, key=lambda t: -t.nbytes)
        ]
        unreached = (f"{self.unreached / MiB:.2f}", "", "not reached from the autograd graph")
        total = (f"{self.nbytes / MiB:.2f}", "", "MiB in all")
        return aligned([*rows, *([unreached] if self.unreached else []), total])


def kept(forward: Callable[[], Any]) -> Kept:
    """Return what one call of ``forward`` leaves behind for its backward.

    ``forward`` takes nothing and returns the loss or any outputs; it runs twice, the first time to
    compile and warm up, and computes in the thread that calls it. A storage that the outputs alone
    hold is not kept for the backward.

    Raises RuntimeError while a profiler runs, and where another thread computed.
    """
    forward()
    returned = []

    def run() -> None:
        with _cycles_freed():
            returned.append(forward())

    seen = events(run)
    alive = {}
    for address, nbytes in seen:
        if nbytes > 0:
            alive[address] = nbytes
        else:
            alive.pop(address, None)
    outputs = list(_tensors(returned, depth=DEEPEST))
    saved = list(_saved(outputs))
    returned_at = {_address(part) for tensor in outputs for part in _parts(tensor)}
    if saved and any(returned_at) and not seen:
        raise RuntimeError(
            "forward allocated nothing in the thread that called it, though its outputs keep "
            "tensors: what another thread allocates, or a CUDA graph holds, is not counted"
        )
    found = {}
    for owner, name, tensor in saved:
        address = _address(tensor)
        if address in alive and address not in found:
            dtype = str(tensor.dtype).removeprefix("torch.")
            found[address] = KeptTensor(owner, name, tuple(tensor.shape), dtype, alive[address])
    ignored = found.keys() | returned_at
    unreached = sum(nbytes for address, nbytes in alive.items() if address not in ignored)
    return Kept(tuple(found.values()), unreached)


@contextmanager
def _cycles_freed() -> Iterator[None]:
    """Free the cycles that a block makes, at its end.

    They stay in the youngest generation where no collection comes between. Elsewhere is what was
    there before, which nobody counts: to look through all that a compiler holds takes seconds.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.collect(0)
    finally:
        if was_enabled:
            gc.enable()


def _saved(outputs: list[torch.Tensor]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Walk the autograd graph of ``outputs``; yield holder, name and tensor of all it can see."""
    pending = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(pending)
    while pending:
        node = pending.pop()
        for name, value in _held(node):
            for tensor in _tensors(value):
                yield from ((node.name(), name, part) for part in _parts(tensor))
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                pending.append(below)


def _held(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and content of what a node saves, and of what was put on it as an attribute.

    Saved tensors are read raw: to unpack one would run the user's hook, and recompute a checkpoint.
    """
    for name in dir(node):
        if name.startswith("_raw_saved_"):
            raw = getattr(node, name)
            for item in raw if isinstance(raw, (tuple, list)) else [raw]:
                yield name.removeprefix("_raw_saved_"), getattr(item, "data", None)
    yield from getattr(node, "__dict__", {}).items()


def _tensors(value: Any, depth: int = 4) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested containers and objects, some levels deep, each once."""
    level, seen = [value], {}
    for _ in range(depth + 1):
        below = []
        for item in level:
            if id(item) in seen:
                continue
            seen[id(item)] = item
            if isinstance(item, torch.Tensor):
                yield item
            else:
                below += _inside(item)
        level = below


def _inside(value: Any) -> Iterable[Any]:
    """Return what a container or an object has, by its own attributes and its class's slots."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    if isinstance(value, (type, torch.nn.Module)):
        return ()
    slotted = [vars(kind) for kind in type(value).__mro__ if "__slots__" in vars(kind)]
    slots = (
        getattr(value, name, None)
        for own in slotted
        for name, slot in own.items()
        if isinstance(slot, MemberDescriptorType)
    )
    return (*getattr(value, "__dict__", {}).values(), *slots)


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield what a wrapper (DTensor, torchao's) is made of, or the tensor itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _parts(getattr(tensor, name))


def _address(tensor: torch.Tensor) -> int | None:
    """Return where the storage begins, None for a tensor without one of its own."""
    if tensor.layout is not torch.strided or tensor.is_mkldnn or tensor._is_zerotensor():
        return None
    return tensor.untyped_storage().data_ptr()
