"""The rows of fxmem.activations as torch functions, float64 to float64: what kernels must equal."""

import functools
import math
from collections.abc import Callable, Sequence

import torch

from fxmem.activations import calculus, inverse
from fxmem.activations.printing import Printer
from fxmem.activations.table import TABLE, Activation

TORCH = {
    "exp_of": torch.exp,
    "expm1_of": torch.expm1,
    "log_of": torch.log,
    "log1p_of": torch.log1p,
    "erf_of": torch.erf,
    "tanh_of": torch.tanh,
    # torch.special.ndtr loses its digits below -8.
    "normal_cdf_of": lambda x: torch.erfc(x * -math.sqrt(0.5)) / 2,
    "abs_of": torch.abs,
    "sqrt_of": torch.sqrt,
    "select": torch.where,
}
EXPRESSIONS: dict[str, Callable[[Activation], object]] = {
    "value": calculus.value,
    "slope": calculus.evaluated_slope,
    "code": calculus.step_code,
    "branch": inverse.branch_at,
    "slope_from_output": inverse.from_output,
}


@functools.cache
def _source(function: str, kind: str) -> str:
    """Python text of one function of a row, in x or, where it starts there, y and branch."""
    row = TABLE[function]
    program = Printer(lambda digits: f"real({digits})").program(EXPRESSIONS[kind](row))
    arguments = "y, branch" if kind == "slope_from_output" else "x"
    names = ", ".join(["real", arguments, *(name for name, _ in row.parameters)])
    lines = [f"    {name} = {text}" for name, text in program.steps]
    return "\n".join([f"def {kind}({names}):", *lines, f"    return {program.result}"])


@functools.cache
def _compiled(function: str, kind: str) -> Callable[..., torch.Tensor]:
    scope = dict(TORCH)
    exec(_source(function, kind), scope)
    return scope[kind]


def evaluate(
    function: str, kind: str, parameters: Sequence[float], *inputs: torch.Tensor
) -> torch.Tensor:
    """`kind` of a row ("value", "slope", "code", "branch", "slope_from_output"), in float64."""
    real = functools.partial(torch.tensor, dtype=torch.float64, device=inputs[0].device)
    return _compiled(function, kind)(real, *inputs, *map(real, parameters))
