"""Expressions as straight-line programs, printed so that C++ and numpy read the same text.

A program is a list of assignments and a result, after common subexpressions were taken out; it has
selects and no branches. `exp_of`, `select` and their like are native/functions.h in C++ and the
functions below in numpy.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp

from .primitives import Decay, Held, NormalCdf, Offset, Ratio, Root, expm1, log1p, lower

FUNCTIONS = {
    sp.exp: "exp_of",
    expm1: "expm1_of",
    sp.log: "log_of",
    log1p: "log1p_of",
    sp.erf: "erf_of",
    sp.tanh: "tanh_of",
    sp.Abs: "abs_of",
    NormalCdf: "normal_cdf_of",
    Root: "sqrt_of",
}
RELATIONS = {
    sp.StrictLessThan: "<",
    sp.LessThan: "<=",
    sp.StrictGreaterThan: ">",
    sp.GreaterThan: ">=",
}


def elementwise(function: Callable[[float], float], points: np.ndarray) -> np.ndarray:
    """Apply a function of Python's math module, which numpy has not, to every element."""
    return np.vectorize(function, otypes=[np.asarray(points).dtype])(points)


NUMPY: Mapping[str, Callable] = {
    "exp_of": np.exp,
    "expm1_of": np.expm1,
    "log_of": np.log,
    "log1p_of": np.log1p,
    "erf_of": lambda v: elementwise(math.erf, v),
    "tanh_of": np.tanh,
    "normal_cdf_of": lambda v: elementwise(math.erfc, v * -math.sqrt(0.5)) / 2,
    "abs_of": np.abs,
    "sqrt_of": np.sqrt,
    "select": np.where,
}
DIGITS = 19


@dataclass(frozen=True)
class Program:
    """Assignments (name, text) in order, and the text of the result."""

    steps: tuple[tuple[str, str], ...]
    result: str


class Printer:
    """Prints expressions; `constant` says how a real number's digits are written."""

    def __init__(self, constant: Callable[[str], str], digits: int = DIGITS) -> None:
        self.constant = constant
        self.digits = digits

    def program(self, expr: sp.Expr) -> Program:
        """Lower `expr`, take out what occurs twice, and print it."""
        steps, (result,) = sp.cse([lower(expr)], sp.numbered_symbols("t"), list=True)
        return Program(tuple((str(name), self(step)) for name, step in steps), self(result))

    def __call__(self, node: sp.Basic) -> str:
        if node in (sp.true, sp.false):
            return str(node).lower()
        if not node.free_symbols:
            return self.number(node)
        if isinstance(node, sp.Symbol):
            return node.name
        if type(node) in FUNCTIONS:
            return f"{FUNCTIONS[type(node)]}({self(node.args[0])})"
        if type(node) in RELATIONS:
            return f"({self(node.lhs)} {RELATIONS[type(node)]} {self(node.rhs)})"
        compound = getattr(self, f"_{type(node).__name__.lower()}", None)
        if compound is None:
            raise ValueError(f"no primitive evaluates {type(node).__name__} in {node}")
        return compound(node)

    def number(self, value: sp.Expr) -> str:
        """A constant expression as one number."""
        if value.is_Integer:
            return self.constant(str(value))
        head, e, exponent = str(sp.N(value, self.digits)).partition("e")
        return self.constant(head.rstrip("0") + e + exponent)

    def _decay(self, node: Decay) -> str:
        return f"exp_of(-abs_of({self(node.args[0])}))"

    def _held(self, node: Held) -> str:
        shown, low, high = self(node.args[0]), self.number(-Held.BOUND), self.number(Held.BOUND)
        return f"select({shown} < {low}, {low}, select({shown} > {high}, {high}, {shown}))"

    def _offset(self, node: Offset) -> str:
        shifted, whole = self(node.args[0]), node.args[1]
        head = sp.Rational(float(np.float32(float(whole))))
        rest = whole - head
        text = f"({shifted} - {self.number(head)})"
        return f"({text} - {self.number(rest)})" if rest != 0 else text

    def _ratio(self, node: Ratio) -> str:
        return f"({self(node.args[0])} / {self(node.args[1])})"

    def _add(self, node: sp.Add) -> str:
        # x/6 + 1/2 rounds the two terms apart; (x + 3) / 6 does not.
        common, rest = sp.factor_terms(node).as_coeff_Mul()
        if common not in (1, -1):
            return self._quotient(common, (rest,))
        first, *others = sorted(node.args, key=_terms_first)
        text = self(first)
        for term in others:
            text += f" - {self(-term)}" if _is_negative(term) else f" + {self(term)}"
        return f"({text})"

    def _mul(self, node: sp.Mul) -> str:
        constant, factors = node.as_independent(*node.free_symbols, as_Add=False)
        return self._quotient(constant, sp.Mul.make_args(factors))

    def _quotient(self, constant: sp.Expr, factors: Iterable[sp.Expr]) -> str:
        factors = sorted(factors, key=sp.default_sort_key)
        sign = "-" if constant.is_negative else ""
        above, below = _split(abs(constant))
        over = [self(f) for f in factors if not _is_reciprocal(f)]
        under = [self(1 / f) for f in factors if _is_reciprocal(f)]
        if above != 1 or not over:
            over.insert(0, self.number(above))
        if below != 1:
            under.insert(0, self.number(below))
        text = sign + " * ".join(over)
        if under:
            text += f" / ({' * '.join(under)})" if len(under) > 1 else f" / {under[0]}"
        return f"({text})"

    def _pow(self, node: sp.Pow) -> str:
        base, power = node.args
        if power == sp.Rational(1, 2):
            return f"sqrt_of({self(base)})"
        if power.is_negative:
            return self._quotient(sp.Integer(1), (node,))
        if not power.is_Integer:
            return f"exp_of({self._quotient(power, (sp.log(base),))})"
        return "(" + " * ".join([self(base)] * int(power)) + ")"

    def _piecewise(self, node: sp.Piecewise) -> str:
        *pieces, (last, _) = node.args
        text = self(last)
        for value, condition in reversed(pieces):
            text = f"select({self(condition)}, {self(value)}, {text})"
        return text

    def _and(self, node: sp.And) -> str:
        return "(" + " & ".join(sorted(map(self, node.args))) + ")"

    def _or(self, node: sp.Or) -> str:
        return "(" + " | ".join(sorted(map(self, node.args))) + ")"


def _is_negative(term: sp.Expr) -> bool:
    return term.as_coeff_Mul()[0].is_negative


def _terms_first(term: sp.Expr) -> tuple:
    """Positive terms before negative ones, so that a sum seldom begins with a minus."""
    return _is_negative(term), sp.default_sort_key(term)


def _is_reciprocal(factor: sp.Expr) -> bool:
    return factor.is_Pow and factor.exp.is_negative


def _split(constant: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Multiplier and divisor: a division by 6 is exact where a product with 1/6 is not."""
    if constant.is_Rational and constant.q <= 100 and constant.q & (constant.q - 1):
        return sp.Integer(constant.p), sp.Integer(constant.q)
    return constant, sp.Integer(1)
