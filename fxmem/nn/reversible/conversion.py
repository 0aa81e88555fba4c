"""Make the layers of a model reversible, in place, and say what that changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from .choice import chosen
from .couplings import AdditiveCoupling
from .ends import Twice
from .layers import layers_of
from .momentum import Position, held_exactly, momentum_coupling
from .options import memory_of
from .stack import Stack

Module = torch.nn.Module
Paths = str | Sequence[str] | None


@dataclass(frozen=True)
class Converted:
    """What was made reversible, and what that changes: print it to see.

    `stacks` maps the path of each list of layers to how many there are in the chain. `rule` is what
    a layer computes now. `preserved` says whether the model computes what it did; `difference` is
    |after - before| / |before| of its outputs for the inputs to be checked, None without any.
    """

    model: Module
    stacks: dict[str, int]
    rule: str
    preserved: bool
    difference: float | None

    def __str__(self) -> str:
        """One line a stack, and one each for rule, function, difference and state_dict."""
        lines = [f"{path or 'the model itself'}: {n} layers" for path, n in self.stacks.items()]
        changed = "as it was" if self.preserved else "another: train, or fine-tune, what results"
        lines += [f"a layer: {self.rule}", f"the model's function: {changed}"]
        if self.difference is not None:
            lines.append(f"its outputs for the given inputs: {self.difference:.2g} away, relative")
        return "\n".join([*lines, "its state_dict: the same names and shapes"])


def to_momentum(
    model: Module,
    layers: Paths = None,
    gamma: float = 0.9,
    *,
    residual: bool = True,
    keep_first: int = 0,
    memory: str = "reversible",
    exact: bool | None = None,
    compensate: int | None = None,
    headroom: int | None = None,
    check: Any = None,
) -> Converted:
    """Make stacks of layers momentum networks: v = gamma * v + (1 - gamma) * f(x), x = x + v.

    In place, and parameters keep their names: checkpoints fit as before. v begins at 0. What is
    computed is another function, unless gamma is 0; the layers of a trained model want fine-tuning.
    For `torch.nn.Sequential`, and for a ModuleList whose layers the model's forward calls in turn,
    each with what the one before returned and any further arguments, as transformers' models do.
    (Sander, Ablin, Blondel, Peyré, Momentum Residual Neural Networks, 2021.)

    Args:
        model: changed in place.
        layers: the path of the Sequential or ModuleList ("encoder.layer"), several, or "" for the
            model itself. None: every outermost one whose layers are of one type.
        gamma: from 0 to 1; 0, the plain residual network, not with memory="reversible". The
            smaller, the nearer to what the model was, and the more bits are kept: log2(1 / gamma).
        residual: whether a layer adds its input itself, so that f(x) = layer(x) - x.
        keep_first: how many layers at the beginning stay as they are, as one that changes the size.
        memory, exact, compensate, headroom: as in `MomentumNet`.
        check: inputs of the model, a tensor, a tuple of arguments or a mapping of named ones: the
            difference is measured on them, in evaluation mode and without gradients.

    Raises:
        ValueError: where there are no such layers, one is in two chains, or options do not fit.
            What the model itself raises for `check` comes through, and leaves it as it was.
    """
    memory = memory_of(memory, None)
    coupling = momentum_coupling(gamma, memory)
    exact = held_exactly(exact, compensate, memory)
    arithmetic = chosen([coupling], exact, compensate, headroom)
    found = layers_of(model, layers, keep_first)
    stacks = [
        Stack(part, coupling, arithmetic, Position(), memory, residual) for part in found.values()
    ]
    f = "layer(x) - x" if residual else "layer(x)"
    rule = f"v = {gamma:.6g} * v + {1 - gamma:.6g} * ({f}), x = x + v"
    difference = _attached(model, stacks, check)
    counts = {path: len(part) for path, part in found.items()}
    return Converted(model, counts, rule, residual and gamma == 0, difference)


def to_reversible(
    model: Module,
    layers: Paths = None,
    *,
    residual: bool = True,
    keep_first: int = 0,
    memory: str = "reversible",
    exact: bool = False,
    compensate: int | None = None,
    headroom: int | None = None,
    check: Any = None,
) -> Converted:
    """Make stacks of layers two-stream networks: (a, b) becomes (b, a + f(b)), layer after layer.

    In place, as `to_momentum`. Both streams begin as the hidden state that enters, and their mean
    leaves (Kitaev, Kaiser, Levskaya, Reformer: The Efficient Transformer, 2020). It is another
    function than before: a layer adds to the stream that the one before it did not read.

    Args:
        model, layers, residual, keep_first, check: as in `to_momentum`.
        memory, exact, compensate, headroom: as in `ReversibleSequential`.

    Raises:
        ValueError: as `to_momentum`.
    """
    memory, coupling = memory_of(memory, None), AdditiveCoupling()
    arithmetic = chosen([coupling], exact, compensate, headroom)
    found = layers_of(model, layers, keep_first)
    stacks = [
        Stack(part, coupling, arithmetic, Twice(), memory, residual) for part in found.values()
    ]
    rule = f"(a, b) becomes (b, a + {'layer(b) - b' if residual else 'layer(b)'})"
    difference = _attached(model, stacks, check)
    counts = {path: len(part) for path, part in found.items()}
    return Converted(model, counts, rule, False, difference)


def _attached(model: Module, stacks: list[Stack], inputs: Any) -> float | None:
    """Attach the stacks; return how far the outputs for `inputs` are from what they were."""
    before = None if inputs is None else _outputs(model, inputs)
    for stack in stacks:
        stack.attach()
    try:
        return None if before is None else _distance(before, _outputs(model, inputs))
    except Exception:
        for stack in stacks:
            stack.detach()
        raise


@torch.no_grad()
def _outputs(model: Module, inputs: Any) -> list[torch.Tensor]:
    args = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    kwargs = inputs if isinstance(inputs, Mapping) else {}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        leaves = tree_leaves(model(*args, **kwargs))
    finally:
        for module, training in modes:
            module.training = training
    return [x.double() for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _distance(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    pairs = list(zip(before, after, strict=True))
    moved = sum(float((y - x).square().sum()) for x, y in pairs)
    size = sum(float(x.square().sum()) for x, _ in pairs)
    return (moved / size) ** 0.5 if size else moved**0.5
