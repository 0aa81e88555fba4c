"""One sketch for all layers that are given the same tensor: q, k and v; gate and up.

A weight uses a sketch once. Given the same tensor again, as in the next step on a fixed batch or in
a recomputed forward, it draws anew, and the others follow it. So it does where a weight that has
used it is gone: those that are computed are new at each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary, WeakIdRef

from ..eager import is_traced
from .operators import SEEDS, project, project_traced

Wanted = tuple[int, torch.dtype, str, int, torch.Generator | None]


@dataclass
class _Entry:
    """The sketch of a tensor. It is the layers' nodes that keep it alive, and no one else."""

    wanted: Wanted
    seed: torch.Tensor
    users: list[TensorWeakRef] = field(default_factory=list)
    made: tuple[TensorWeakRef, ...] = ()

    def serves(self, wanted: Wanted, weight: torch.Tensor) -> bool:
        """Whether this weight may use the sketch."""
        users = [user() for user in self.users]
        return self.wanted == wanted and all(u is not None and u is not weight for u in users)


_entries = WeakIdKeyDictionary(ref_type=WeakIdRef)


def sketch_of(
    owner: torch.Tensor,
    flat: torch.Tensor,
    weight: torch.Tensor,
    kind: str,
    rows: int,
    seed: torch.Tensor,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `project` keeps of `flat`, a matrix made of the layer's input `owner`.

    Its seed is `seed`, drawn from `generator`, or that of a sketch which this layer may share.
    """
    if is_traced():
        return project_traced(flat, kind, rows, seed)
    wanted = (owner._version, flat.dtype, kind, rows, generator)
    entry = _entries.get(owner)
    if entry is None or not entry.serves(wanted, weight):
        entry = _entries[owner] = _Entry(wanted, seed)
    entry.users.append(TensorWeakRef(weight))
    made = tuple(ref() for ref in entry.made)
    if not made or any(tensor is None for tensor in made):
        made = project(flat, kind, rows, entry.seed)
        entry.made = tuple(map(TensorWeakRef, made))
    return made


def check_generator(generator: torch.Generator | None) -> None:
    """Raise ValueError for what is no generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, or None for torch's; got {generator!r}"
        )


def drawn(device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """Return a seed: one number of the generator, on whose device it must be."""
    if generator is None:
        return torch.randint(*SEEDS, (1,), device=device)
    if generator.device != device:
        found = generator.device
        raise ValueError(f"generator must be on the input's device, {device}; got {found}")
    return torch.randint(*SEEDS, (1,), device=device, generator=generator)
