"""The activation operators in plain torch: slow, and the truth that kernels are compared with."""

import math

import torch

from fxmem.activations import calculus
from fxmem.activations.table import TABLE

from .. import layout, reference
from . import checks
from .functions import evaluate


def codes_of(x: torch.Tensor, borders: list[float], even: bool) -> torch.Tensor:
    """How many borders lie below each element (of |x| if `even`); 0 for NaN. int64, x's shape."""
    x = x.double().abs() if even else x.double()
    edges = torch.tensor(borders, dtype=torch.float64, device=x.device)
    return torch.bucketize(x.nan_to_num(-math.inf, math.inf, -math.inf), edges)


def classify(x, borders, bits, even=False):
    """fxmem::classify; fxmem.ops.classify says what it does."""
    checks.classify("classify", x, borders, bits)
    codes = codes_of(layout.flatten(x), borders, even)
    return reference.pack(codes.to(torch.uint8), bits)


def levels_of(codes, levels, bits, size, stride, dtype):
    """The level of each code, of this size and these strides; NaN for a code that has none."""
    code = reference.unpack(codes, size, stride, bits, torch.uint8).long()
    table = torch.full((2**bits,), math.nan, dtype=torch.float64)
    table[: len(levels)] = torch.tensor(levels, dtype=torch.float64)
    table = table.to(codes.device, dtype)
    return codes.new_empty_strided(size, stride, dtype=dtype).copy_(table[code])


def lookup(codes, levels, bits, size, stride, dtype):
    """fxmem::lookup; fxmem.ops.lookup says what it does."""
    checks.lookup(codes, levels, bits, size, stride, dtype)
    return levels_of(codes, levels, bits, size, stride, dtype)


def _laid_out(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values of `like`'s shape in its dtype and its dense layout."""
    return like.new_empty_strided(like.size(), layout.memory_stride(like)).copy_(values)


def draw(slope: torch.Tensor, levels: list[float], seed: torch.Tensor) -> torch.Tensor:
    """The lower or upper of the two levels around each slope, expecting the slope. int64 [n]."""
    steps = torch.tensor(levels, dtype=slope.dtype, device=slope.device)
    if len(levels) == 1:
        return torch.zeros_like(slope, dtype=torch.int64)
    lower = codes_of(slope, steps[1:-1].tolist(), False)
    chance = (slope - steps[lower]) / (steps[lower + 1] - steps[lower])
    return lower + (reference.uniform(int(seed), slope.numel()).to(slope.device) < chance)


def _compared(function: str, parameters: list[float], x: torch.Tensor) -> list[float]:
    """Parameters as torch compares with them: in float32 where x has no more digits than that."""
    if x.dtype == torch.float64 or not calculus.step_slopes(TABLE[function]):
        return parameters
    return torch.tensor(parameters, dtype=torch.float32).tolist()


def few_bit(x, function, parameters, borders, levels, bits, even=False, seed=None):
    """fxmem::few_bit; fxmem.ops.few_bit says what it does."""
    checks.few_bit(x, function, parameters, borders, levels, bits, seed)
    parameters = _compared(function, parameters, x)
    flat = layout.flatten(x)
    if seed is not None:
        slope = evaluate(function, "slope", parameters, flat.double())
        codes = draw(slope.to(torch.promote_types(x.dtype, torch.float32)), levels, seed)
    elif borders or len(levels) == 1:
        codes = codes_of(flat, borders, even)
    else:
        codes = evaluate(function, "code", parameters, flat.double())
    y = _laid_out(evaluate(function, "value", parameters, x.double()), x)
    return y, reference.pack(codes.to(torch.uint8), bits)


def few_bit_backward(grad, codes, levels, bits, stride):
    """fxmem::few_bit_backward: the gradient times each element's level."""
    op = "few_bit_backward"
    checks.levels(op, levels, bits)
    checks.floating(op, "grad", grad.dtype)
    checks.codes(op, "codes", codes, grad.shape, bits)
    checks.dense(op, grad.size(), stride)
    wide = torch.promote_types(grad.dtype, torch.float32)
    slopes = levels_of(codes, levels, bits, grad.size(), stride, wide)
    return grad.new_empty_strided(grad.size(), stride).copy_(grad.to(wide) * slopes)


def from_output(x, function, parameters):
    """fxmem::from_output; fxmem.ops.from_output says what it does."""
    branches = checks.branches("from_output", function, parameters)
    checks.floating("from_output", "x", x.dtype)
    parameters = _compared(function, parameters, x)
    y = _laid_out(evaluate(function, "value", parameters, x.double()), x)
    if branches == 1:
        return y, x.new_empty(0, dtype=torch.uint8)
    return y, reference.pack(
        evaluate(function, "branch", parameters, layout.flatten(x).double()), 1
    )


def from_output_backward(grad, y, branch, function, parameters):
    """fxmem::from_output_backward: the gradient times the slope that follows from y."""
    op = "from_output_backward"
    branches = checks.branches(op, function, parameters)
    checks.floating(op, "y", y.dtype)
    checks.alike(op, "grad", grad, "y", y)
    checks.codes(op, "branch", branch, y.shape, branches - 1)
    right = torch.zeros_like(y, dtype=torch.bool)
    if branches == 2:
        right = reference.unpack(branch, y.size(), layout.memory_stride(y), 1, torch.bool)
    if calculus.step_slopes(TABLE[function]):
        parameters = torch.tensor(parameters, dtype=y.dtype).tolist()
    slope = evaluate(function, "slope_from_output", parameters, y.double(), right)
    return _laid_out(grad.double() * slope, y)


def gated(gate, up, function, parameters):
    """fxmem::gated; fxmem.ops.gated says what it does."""
    checks.function("gated", function, parameters)
    checks.floating("gated", "gate", gate.dtype)
    checks.alike("gated", "up", up, "gate", gate)
    parameters = _compared(function, parameters, gate)
    return _laid_out(evaluate(function, "value", parameters, gate.double()) * up.double(), gate)


def gated_backward(grad, gate, up, function, parameters):
    """fxmem::gated_backward: the gradients of gate and up."""
    checks.function("gated_backward", function, parameters)
    checks.alike("gated_backward", "up", up, "gate", gate)
    checks.alike("gated_backward", "grad", grad, "gate", gate)
    parameters = _compared(function, parameters, gate)
    x, g = gate.double(), grad.double()
    slope = evaluate(function, "slope", parameters, x)
    value = evaluate(function, "value", parameters, x)
    return _laid_out(g * up.double() * slope, gate), _laid_out(g * value, gate)
