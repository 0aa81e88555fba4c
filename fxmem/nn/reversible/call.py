"""One call of a step: what its forward leaves for its backward, tensors apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import TreeSpec, tree_unflatten

from . import checks, repeats
from .block import Block
from .couplings import Streams
from .inverse import check_inverse
from .surroundings import Surroundings, devices_of
from .tape import Tape

if TYPE_CHECKING:
    from .step import Step

Tensor = torch.Tensor
Layout = tuple[torch.dtype, tuple[int, ...]]


@dataclass
class Call:
    """One call of a step: what its forward leaves for its backward, tensors apart."""

    step: Step
    tape: Tape
    block: Block
    position: int
    spec: TreeSpec
    others: list[Any]
    where: list[int]
    parameters: dict[str, Tensor]
    layouts: list[Layout] = field(default_factory=list)
    sample: repeats.Sample | None = None

    def __post_init__(self) -> None:
        self.trained = [name for name, p in self.parameters.items() if p.requires_grad]
        self.versions = [p._version for p in self.parameters.values()]

    def first(self, source: Tensor, tensors: list[Tensor]) -> Tensor:
        """Call the block, and note what a second call must find."""
        version = source._version
        devices = devices_of(source, *self.learned(self.parameters))
        self.surroundings = Surroundings(self.step.block, devices)
        with self.surroundings.autocast(), checks.reading(self.step.label):
            f = self.block(source, *self._arguments(tensors))
        self.surroundings.settle()
        checks.check_untouched(self.step.label, source, version)
        return f

    def again(self, source: Tensor, tensors: list[Tensor], parameters: dict[str, Tensor]) -> Tensor:
        """Call the block as the first time; within `surroundings.again()`.

        With functional_call around the chain, its parameters are no longer the module's own.
        """
        now = self.block.parameters()
        lent = {name: p for name, p in parameters.items() if now.get(name) is not p}
        instead = {**lent, **self.surroundings.buffers()}
        return self.block(source, *self._arguments(tensors), instead)

    def learned(self, parameters: dict[str, Tensor]) -> list[Tensor]:
        """Return those of the parameters that wanted a gradient when the block was called."""
        return [parameters[name] for name in self.trained]

    def differentiated(self) -> dict[str, Tensor]:
        """Return the parameters by name, with others in place of those that have hooks.

        A hook is called where the gradient leaves the step: within, it would be called once more.
        """
        hooked = {name for name, p in self.parameters.items() if p._backward_hooks}
        return {
            name: p.detach().requires_grad_() if name in hooked else p
            for name, p in self.parameters.items()
        }

    def _arguments(self, tensors: list[Tensor]) -> tuple[tuple, dict[str, Any]]:
        flat = list(self.others)
        for i, tensor in zip(self.where, tensors, strict=True):
            flat[i] = tensor
        return tree_unflatten(flat, self.spec)

    def examine(
        self, a: Tensor, source: Tensor, tensors: list[Tensor], f: Tensor, needed: bool
    ) -> None:
        """Once a step: the coupling inverts, and no gradient goes past the step's own inputs.

        `needed` says whether a backward will come here, which looks at the latter in every batch.
        """
        step = self.step
        if needed and not (step._repeated or f.is_meta):
            self.sample = repeats.Sample.of(source, f)
        if not step._checked or (f.requires_grad and not needed):
            known = (a, source, *tensors, *self.parameters.values())
            self.check_captured(step.joined(a, source, f), known)
        if not (step._checked or f.is_meta):
            step._checked = self.tape.keeps_inputs or self._inverts(a, source, f)

    def check_captured(self, outputs: Streams, known: Iterable[Tensor]) -> None:
        """Raise ValueError if a gradient goes past the inputs and parameters that are known."""
        repeats.check_captured(self.step.label, outputs, known, self.others)

    def check_repeated(self, source: Tensor, f: Tensor) -> None:
        """Raise RuntimeError where the block gave something else; once a step."""
        if self.sample is None or self.step._repeated:
            return
        again, eps = repeats.Sample.of(source, f), torch.finfo(source.dtype).eps
        self.step._repeated = repeats.check_repeated(self.step.label, self.sample, again, eps)

    def _inverts(self, a: Tensor, source: Tensor, f: Tensor) -> bool:
        arithmetic, coupling, f = self.tape.arithmetic, self.step.coupling, f.detach()
        before = self.tape.state_for(a.detach(), source.detach())
        after = arithmetic.step(before, coupling, f)
        return check_inverse(self.step.label, arithmetic, coupling, before, after, f)


def layout(x: Tensor) -> Layout:
    """Return the dtype, and the strides of what elementwise operations make of a tensor."""
    dense = x if x.is_contiguous() else torch.empty_like(x, device="meta")
    return x.dtype, dense.stride()


def like(x: Tensor, wanted: Layout) -> Tensor:
    """Return a tensor in the layout it had: dropout draws its mask in the order of memory."""
    dtype, strides = wanted
    if x.dtype == dtype and x.stride() == strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=dtype, device=x.device).copy_(x)
