"""The call behind every generated function: options are resolved, then an operator computes."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from fxmem import ops
from fxmem.activations.table import TABLE
from fxmem.ops.eager import refuse_transforms
from fxmem.ops.second import once

from .coding import Arguments, Coding, Options, coding
from .tables import store

SEEDS = (-(2**63), 2**63 - 1)
# Of torch's list of operators that autocast to float32, those in the table.
TO_FLOAT32 = {"cuda": ("exp", "softplus")}


def activate(
    name: str,
    input: torch.Tensor,
    arguments: dict[str, float | str | bool],
    bits: int | None = None,
    borders: Sequence[float] | None = None,
    levels: Sequence[float] | None = None,
    keep: str = "codes",
    unbiased: bool = False,
) -> torch.Tensor:
    """Compute the activation `name`; `arguments` are those that torch's own function takes."""
    refuse_transforms(f"fxmem.functional.{name}", input)
    inplace = arguments.pop("inplace", False)
    options = Options(bits, numbers(borders), numbers(levels), keep, unbiased)
    plan = resolve(name, arguments, options)
    input = _autocast(name, input)
    if inplace and plan.bits == 0 and not torch.compiler.is_compiling():
        return _FromOutputInPlace.apply(input, plan)
    output = _compute(input, plan)
    return input.copy_(output) if inplace else output


def gated(name: str, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Compute a gated row: the activation of `gate`, times `up`."""
    refuse_transforms(f"fxmem.functional.{name}", gate, up)
    function = TABLE[name].gate
    return ops.gated(gate, up, function, TABLE[function].defaults)


def numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    """A sequence, array or tensor of numbers as a tuple."""
    return None if values is None else tuple([float(value) for value in values])


def resolve(name: str, arguments: dict[str, float | str], options: Options) -> Coding:
    """The coding of an activation, while torch.compile traces too."""
    given = tuple(arguments.items())
    if torch.compiler.is_compiling():
        return Coding(*_constant(name, known(given), known(options)))
    return coding(name, given, options, store.version)


@torch.compiler.assume_constant_result
def _constant(name: str, arguments: Arguments, options: tuple) -> tuple:
    # Plain tuples in and out: Dynamo loses what a named one holds.
    return tuple(coding(name, arguments, Options(*options), store.version))


def known(values):
    """Nested tuples, of numbers that Dynamo takes for constants.

    It makes a symbol of a number that has differed between calls; these turn it back.
    """
    if isinstance(values, tuple):
        return tuple([known(value) for value in values])
    if isinstance(values, int) and not isinstance(values, bool):
        return operator.index(values)
    return float.fromhex(values.hex()) if isinstance(values, float) else values


def _compute(input: torch.Tensor, plan: Coding) -> torch.Tensor:
    if plan.bits == 0:
        return ops.from_output(input, plan.function, plan.parameters)[0]
    seed = torch.randint(*SEEDS, (1,), device=input.device) if plan.drawn else None
    return ops.few_bit(input, *plan[:-1], seed)[0]


def _autocast(name: str, input: torch.Tensor) -> torch.Tensor:
    device = input.device.type
    if TABLE[name].torch not in TO_FLOAT32.get(device, ()) or input.dtype == torch.float64:
        return input
    return input.float() if torch.is_autocast_enabled(device) else input


class _FromOutputInPlace(torch.autograd.Function):
    """The input's own storage holds the output that is kept, so that there is no second one."""

    @staticmethod
    def forward(ctx, input: torch.Tensor, plan: Coding) -> torch.Tensor:
        ctx.plan = plan
        output, branch = ops.from_output(input, plan.function, plan.parameters)
        ctx.mark_dirty(input.copy_(output))
        ctx.save_for_backward(input, branch)
        return input

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        output, branch = ctx.saved_tensors
        plan = ctx.plan
        backward = torch.ops.fxmem.from_output_backward
        return backward(once(grad), output, branch, plan.function, plan.parameters), None
