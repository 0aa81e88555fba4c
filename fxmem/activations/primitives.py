"""Functions that stable forms are written in: each knows its derivative and how it is evaluated.

Left to itself sympy differentiates 1 / (1 + exp(-x)) into a quotient of two infinities. Written in
these, an activation's derivative is again in these, and every one of them is evaluated without
overflow and, in its small tail, without cancellation.
"""

import sympy as sp
from sympy.codegen.cfunctions import expm1, log1p

__all__ = [
    "BOUNDED",
    "Decay",
    "Held",
    "Logistic",
    "LogisticSlope",
    "NormalCdf",
    "Offset",
    "Ratio",
    "Root",
    "Softplus",
    "expm1",
    "log1p",
    "lower",
]


class Primitive(sp.Function):
    """A real function of one argument."""

    nargs = 1

    def _eval_is_real(self) -> bool | None:
        return self.args[0].is_real

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        """The definition, for proofs."""
        raise NotImplementedError

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        """What is evaluated in floating point."""
        raise NotImplementedError


class Decay(Primitive):
    """e^-|x|, opaque, so that sympy makes no second exponential of its square."""

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        """Even: of x and -x one form is kept."""
        return cls(-x) if x.could_extract_minus_sign() else None

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return sp.exp(-sp.Abs(x))

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        return cls(x)


class Held(Primitive):
    """x, held within ±1e4: an activation's slope is constant there, and x² is no infinity."""

    BOUND = sp.Integer(10_000)

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return x

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        return cls(x)


class Logistic(Primitive):
    """1 / (1 + e^-x)."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """σ(x) σ(-x)."""
        return LogisticSlope(self.args[0])

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return 1 / (1 + sp.exp(-x))

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        small = Decay(x)
        return sp.Piecewise((1, x >= 0), (small, True)) / (1 + small)


class LogisticSlope(Primitive):
    """e^-x / (1 + e^-x)², an even function."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """σ'(x) (1 - 2 σ(x))."""
        return LogisticSlope(self.args[0]) * (1 - 2 * Logistic(self.args[0]))

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return sp.exp(-x) / (1 + sp.exp(-x)) ** 2

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        small = Decay(x)
        return small / (1 + small) ** 2


class Softplus(Primitive):
    """log(1 + e^x)."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """The logistic function."""
        return Logistic(self.args[0])

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return sp.log(1 + sp.exp(x))

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        return sp.Piecewise((x, x >= 0), (0, True)) + log1p(Decay(x))


class NormalCdf(Primitive):
    """Φ(x), the distribution function of the standard normal."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """The normal density."""
        return sp.exp(-(self.args[0] ** 2) / 2) / sp.sqrt(2 * sp.pi)

    @classmethod
    def textbook(cls, x: sp.Expr) -> sp.Expr:
        return (1 + sp.erf(x / sp.sqrt(2))) / 2

    @classmethod
    def stable(cls, x: sp.Expr) -> sp.Expr:
        return cls(x)


BOUNDED = (Decay, Logistic, LogisticSlope, NormalCdf)


class Offset(sp.Function):
    """v - c, with the constant c in two parts so that float loses none of it."""

    nargs = 2


class Ratio(sp.Function):
    """a / b with one division, where sympy would divide in each piece of b."""

    nargs = 2


class Root(sp.Function):
    """sqrt(v) once, where sympy would take the root of each piece of v."""

    nargs = 1


def lower(expr: sp.Expr, form: str = "stable") -> sp.Expr:
    """Replace the primitives in `expr` by their stable (or `"textbook"`) forms."""
    return expr.replace(
        lambda node: isinstance(node, Primitive), lambda node: getattr(node, form)(node.args[0])
    )
