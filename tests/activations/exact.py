"""The table in hundreds of digits, and the rows that tests run over."""

import functools

import mpmath as mp
import numpy as np
import sympy as sp

from fxmem.activations import calculus
from fxmem.activations.primitives import lower
from fxmem.activations.printing import Printer
from fxmem.activations.table import TABLE

DIGITS = 400
ROWS = [row for row in TABLE.values() if row.gate is None]
STEPWISE = [row for row in ROWS if calculus.step_slopes(row)]
SMOOTH = [row for row in ROWS if not calculus.step_slopes(row)]
# Parameters other than the defaults, in the order of the row.
OTHERS = {
    "leaky_relu": (0.2,),
    "threshold": (0.5, -1.0),
    "hardtanh": (-2.0, 0.5),
    "hardshrink": (1.5,),
    "softshrink": (0.25,),
    "celu": (0.5,),
    "elu": (2.0,),
    "softplus": (3.0, 5.0),
}
CASES = [
    *((row, row.defaults) for row in ROWS),
    *((TABLE[name], parameters) for name, parameters in OTHERS.items()),
]
FUNCTIONS = {
    "exp_of": mp.exp,
    "expm1_of": mp.expm1,
    "log_of": mp.log,
    "log1p_of": mp.log1p,
    "erf_of": mp.erf,
    "tanh_of": mp.tanh,
    "abs_of": abs,
    "sqrt_of": mp.sqrt,
    "normal_cdf_of": lambda v: mp.erfc(-v / mp.sqrt(2)) / 2,
    "select": lambda condition, yes, no: yes if condition else no,
}


def name(value):
    return getattr(value, "name", str(value))


def in_digits(expr: sp.Expr, row, parameters):
    """An expression as a function of an mpf: the same text that C++ is given, in many digits."""
    program = Printer(lambda digits: f"mpf('{digits}')", DIGITS).program(expr)
    lines = [f"    {step} = {text}" for step, text in program.steps]
    source = "\n".join(["def f(x):", *lines, f"    return {program.result}"])
    values = zip((name for name, _ in row.parameters), map(mp.mpf, parameters), strict=True)
    scope = {**FUNCTIONS, **dict(values), "mpf": mp.mpf}
    exec(source, scope)
    return scope["f"]


@functools.cache
def definition(row, parameters):
    """The textbook definition in many digits."""
    return in_digits(lower(row.definition, "textbook"), row, parameters)


def bfloat16(numbers):
    """To the nearest bfloat16, ties to even."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.int64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


# Rounding to each dtype, its machine epsilon, and the type that C++ evaluates it in.
DTYPES = {
    "fp32": (np.float32, 2.0**-23, np.float64),
    "fp32 in float": (np.float32, 2.0**-23, np.float32),
    "fp16": (np.float16, 2.0**-10, np.float32),
    "bf16": (bfloat16, 2.0**-7, np.float32),
}
