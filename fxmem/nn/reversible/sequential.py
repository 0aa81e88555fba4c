"""A chain of blocks whose activation memory does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from .choice import chosen
from .couplings import Streams
from .ends import Ends, Halves, Twice
from .fused import FusedOptimizers
from .options import couplings_of, memory_of
from .step import Step
from .tape import Tape

Tensor = torch.Tensor
Layerwise = Sequence[tuple[Sequence[Any], dict[str, Any]]]


class ReversibleSequential(torch.nn.Module):
    """Blocks in a chain of two streams: (a, b) becomes (b, c(a, F(b))), block after block.

    The backward computes each state from the one after it, and each block once more; between
    forward and backward only the output is kept, whatever the number of blocks. Under torch.compile
    the chain is an ordinary graph, in which backend="fxmem" finds it again.

    Gomez et al. 2017, The Reversible Residual Network; the arguments are those of RevLib's class of
    this name, and fxmem's own.

    Args:
        blocks: modules, or functions, that return a tensor of their input's shape (for
            `AffineCoupling` one of twice the size). A block gets one stream and the extra
            arguments. `model[i]` is a block's step: what is to be sharded (FSDP2) or hooked.
        split_dim: the dimension that is cut in halves, the streams; with None both streams begin
            as the input, and the output is their mean.
        coupling: a `Coupling`, a pair of functions (forward, inverse), or a list of these, which
            the blocks take in turn. `AdditiveCoupling()` where nothing is given.
        memory: "reversible" keeps the output, "checkpoint" one stream a block, "none" all that
            autograd saves. All three have the same gradients, to rounding.
        exact: whether streams are fixed-point integers, so that a step is undone bit for bit.
        compensate: bits of rounding error kept of each addition, in place of `exact`.
        headroom: with `exact`, by how many powers of two a stream may outgrow what enters.
        coupling_forward, coupling_inverse: RevLib's pair, y = forward(a, f) and a = inverse(y, f);
            a function each, or lists.
        memory_mode: RevLib's number or name for `memory`.
        target_device: where blocks compute; parameters and buffers stay where they are, and are
            copied there for a block's forward and again for its backward.
        fused_optimizer: called with a list of parameters, it returns their optimizer, whose step is
            taken within the backward, as soon as a parameter has its gradient, which is freed.

    Raises:
        ValueError: for options that do not exist or do not go together, a split dimension that is
            odd or not there, a block that changes the shape, a tensor that requires grad and is
            neither a block's parameter nor an argument, or a coupling that does not invert (seen on
            the first batch).
        RuntimeError: for a block that gives something else when it is computed again (seen in the
            first backward), lazy layers, or parameters changed before the backward.
        TypeError: for a coupling that is none, or a block that returns no tensor.
    """

    def __init__(
        self,
        *blocks: Callable[..., Tensor],
        split_dim: int | None = 1,
        coupling: Any = None,
        memory: str = "reversible",
        exact: bool = False,
        compensate: int | None = None,
        headroom: int | None = None,
        coupling_forward: Any = None,
        coupling_inverse: Any = None,
        memory_mode: Any = None,
        target_device: torch.device | str | None = None,
        fused_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory_of(memory, memory_mode)
        self.split_dim = split_dim
        couplings = couplings_of(coupling, coupling_forward, coupling_inverse, len(blocks))
        self.arithmetic = chosen(couplings, exact, compensate, headroom)
        device = torch.device(target_device) if target_device else None
        self.steps = torch.nn.ModuleList(
            Step(block, one, f"block {i} ({_name(block)})", device)
            for i, (block, one) in enumerate(zip(blocks, couplings, strict=True))
        )
        self.fused = fused_optimizer and FusedOptimizers(self, fused_optimizer)

    def forward(
        self,
        inp: Tensor,
        *args: Any,
        layerwise_args_kwargs: Layerwise | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the chain's output, of the input's shape.

        Args:
            args, kwargs: go to every block, after its stream. Gradients reach tensors among them.
            layerwise_args_kwargs: for each block its own (args, kwargs), after the others.
        """
        ends = Twice() if self.split_dim is None else Halves(self.split_dim)
        each = [
            ((*args, *own), {**kwargs, **named})
            for own, named in self._layers(layerwise_args_kwargs)
        ]
        return self._through(ends, ends.split(inp), each)

    def _through(self, ends: Ends, streams: Streams, each: Sequence[tuple[tuple, dict]]) -> Tensor:
        """Return what the chain makes of two streams; `each` is what goes to each block."""
        if self.fused:
            self.fused.check(self)
        tape = Tape(self.arithmetic, self.memory)
        a, b = tape.open(*streams)
        for step, (args, kwargs) in zip(self.steps, each, strict=True):
            a, b = step(tape, a, b, args, kwargs)
        return tape.close(ends, a, b)

    def _layers(self, given: Layerwise | None) -> Iterable[tuple[Sequence[Any], dict[str, Any]]]:
        if given is None:
            return [((), {})] * len(self.steps)
        if len(given) != len(self.steps):
            raise ValueError(
                f"layerwise_args_kwargs has {len(given)} entries for {len(self.steps)} blocks"
            )
        return given

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def extra_repr(self) -> str:
        """What is kept, and how streams are split and held."""
        held = type(self.arithmetic).__name__
        return f"memory={self.memory!r}, split_dim={self.split_dim}, arithmetic={held}"


def _name(block: Any) -> str:
    if isinstance(block, torch.nn.Module):
        return type(block).__name__
    return getattr(block, "__name__", type(block).__name__)
