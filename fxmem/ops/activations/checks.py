"""What the activation operators refuse, in a sentence, as checks.py does for the codecs.

The native kernels make the same checks in native/activations.h.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from fxmem.activations import calculus, inverse
from fxmem.activations.table import TABLE, Activation

from .. import layout
from ..checks import dense, require, stream

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ANY_FLOATING = "float32, bfloat16, float16 or float64"


def floating(op: str, name: str, dtype: torch.dtype) -> None:
    """Refuse what no activation operator computes in."""
    require(dtype in FLOATING, op, name, ANY_FLOATING, dtype)


def ascending(op: str, name: str, numbers: Sequence[float]) -> None:
    """Refuse numbers that descend, or are none."""
    sorted_ = all(a <= b for a, b in pairwise(numbers))
    sorted_ = sorted_ and not any(map(math.isnan, numbers))
    require(sorted_, op, name, "in ascending order", list(numbers))


def classify(op: str, x: torch.Tensor, borders: Sequence[float], bits: int) -> None:
    """Refuse a bad call of fxmem::classify."""
    require(1 <= bits <= 8, op, "bits", "1 to 8", bits)
    floating(op, "x", x.dtype)
    ascending(op, "borders", borders)
    most = 2**bits - 1
    require(len(borders) <= most, op, "borders", f"at most {most} for bits {bits}", len(borders))


def levels(op: str, levels: Sequence[float], bits: int) -> None:
    """Refuse levels that codes of this width cannot tell apart."""
    require(1 <= bits <= 8, op, "bits", "1 to 8", bits)
    fits = 1 <= len(levels) <= 2**bits
    require(fits, op, "levels", f"1 to {2**bits} for bits {bits}", len(levels))


def codes(op: str, name: str, codes: torch.Tensor, size: layout.Ints, bits: int) -> None:
    """Refuse a bit stream that does not have exactly the bytes of `size`."""
    why = f"size {list(size)} and bits {bits}"
    stream(op, name, codes, -(-math.prod(size) * bits // 8), torch.uint8, why)


def lookup(packed, table, bits, size, stride, dtype) -> None:
    """Refuse a bad call of fxmem::lookup."""
    levels("lookup", table, bits)
    floating("lookup", "dtype", dtype)
    codes("lookup", "codes", packed, size, bits)
    dense("lookup", size, stride)


def function(op: str, name: str, parameters: Sequence[float]) -> Activation:
    """The row of that name; refuses one that is not in the table, and other parameters."""
    row = TABLE.get(name)
    known = row is not None and row.gate is None
    require(known, op, "function", "one of the table's", name)
    count = len(row.parameters)
    require(len(parameters) == count, op, "parameters", f"{count} for {name}", len(parameters))
    return row


def branches(op: str, name: str, parameters: Sequence[float]) -> int:
    """The monotone branches of a function whose slope follows from its output; refuses others."""
    row = function(op, name, parameters)
    found = inverse.branches(row)
    holds = row.invertible.subs(dict(zip(row.symbols, parameters, strict=True)))
    wanted = "one whose slope follows from its output, with parameters that allow it"
    require(found > 0 and bool(holds), op, "function", wanted, name)
    return found


def few_bit(x, name, parameters, borders, levels_, bits, seed) -> None:
    """Refuse a bad call of fxmem::few_bit."""
    row = function("few_bit", name, parameters)
    classify("few_bit", x, borders, bits)
    levels("few_bit", levels_, bits)
    drawn = seed is not None
    wanted = 0 if drawn or calculus.step_slopes(row) else len(levels_) - 1
    why = f"{wanted} for {len(levels_)} levels of {name}{', drawn' if drawn else ''}"
    require(len(borders) == wanted, "few_bit", "borders", why, len(borders))
    if drawn:
        ascending("few_bit", "levels", levels_)
        seeded("few_bit", x, seed)


def seeded(op: str, x: torch.Tensor, seed: torch.Tensor) -> None:
    """Refuse a seed that is not one int64 beside x."""
    single = seed.dtype == torch.int64 and seed.numel() == 1
    got = f"{tuple(seed.shape)} of {seed.dtype}"
    require(single, op, "seed", "an int64 tensor of one element", got)
    require(seed.device == x.device, op, "seed", "on the device of x", seed.device)


def alike(op: str, name: str, it: torch.Tensor, other: str, reference: torch.Tensor) -> None:
    """Refuse a tensor of another shape, dtype or device than `reference`."""
    same = it.shape == reference.shape and it.dtype == reference.dtype
    got = f"{list(it.shape)} of {it.dtype}"
    require(same, op, name, f"of the shape and dtype of {other}", got)
    require(it.device == reference.device, op, name, f"on the device of {other}", it.device)


def matrix(op: str, name: str, it: torch.Tensor) -> None:
    """Refuse a tensor that does not have two dimensions."""
    require(it.dim() == 2, op, name, "a matrix", list(it.shape))
