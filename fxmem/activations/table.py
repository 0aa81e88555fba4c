"""The table of activations: one row each, from which everything else follows.

A row says what an activation is; calculus, levels, inverse and codegen derive its slope, pieces,
branches, few-bit levels, gradient from the output and C++ functor. A new activation is a new row.
Where two pieces meet, a condition's `<=` or `<` decides the slope there as torch's backward does;
the last piece must contain x, so that it carries NaN.
"""

from dataclasses import dataclass

import sympy as sp
from sympy import Abs, Piecewise, Rational, exp, sqrt, tanh

from .primitives import Decay, Logistic, LogisticSlope, NormalCdf, Softplus, expm1

x, y = sp.symbols("x y", real=True)
u = sp.Symbol("u", real=True)
alpha, beta, lambd = sp.symbols("alpha beta lambd", real=True)
negative_slope, threshold, value = sp.symbols("negative_slope threshold value", real=True)
min_val, max_val = sp.symbols("min_val max_val", real=True)


@dataclass(frozen=True)
class Activation:
    """One activation as mathematics.

    Args:
        name: what it is called everywhere in fxmem.
        definition: the textbook expression, in x and the parameters.
        stable: an equal expression that neither overflows nor cancels, where the definition does.
        slope: an equal form of the derivative, where that of `stable` cancels.
        parameters: names and defaults, in the order of torch.nn.functional.
        from_output: f'(x) in terms of y = f(x), one expression for each monotone branch from the
            left; () where it follows from the pieces or is fitted.
        invertible: a condition on the parameters without which y does not determine the slope.
        allowed: a condition on the parameters without which torch refuses to compute it.
        torch: its name in torch.nn.functional or torch, None where torch has no such function.
        torch_keywords: arguments of torch's function that select this one.
        gate: of a gated row act(x) * u, the name of act's row.
    """

    name: str
    definition: sp.Expr
    stable: sp.Expr | None = None
    slope: sp.Expr | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    from_output: tuple[sp.Expr, ...] = ()
    invertible: sp.Basic = sp.true
    allowed: sp.Basic = sp.true
    torch: str | None = None
    torch_keywords: tuple[tuple[str, str], ...] = ()
    gate: str | None = None

    @property
    def symbols(self) -> tuple[sp.Symbol, ...]:
        """The parameters as they stand in the expressions."""
        return tuple(sp.Symbol(name, real=True) for name, _ in self.parameters)

    @property
    def defaults(self) -> tuple[float, ...]:
        """The parameters' defaults."""
        return tuple(default for _, default in self.parameters)


def _small_tanhshrink(terms: int = 9) -> sp.Expr:
    """x - tanh(x) by tanh's continued fraction x / (1 + x²/(3 + x²/(5 + …))): nothing cancels."""
    rest = sp.Integer(0)
    for odd in range(2 * terms + 1, 3, -2):
        rest = x**2 / (odd + rest)
    above, below = sp.fraction(sp.cancel(1 / (3 + rest + x**2)))
    scale = below.subs(x, 0)
    return x**3 * sp.horner(above / scale) / sp.horner(below / scale)


SELU_SCALE = Rational("1.0507009873554804934193349852946")
SELU_ALPHA = Rational("1.6732632423543772848170429916717")
# tanh(softplus(x)) = MISH_OVER / MISH_UNDER, both scaled by the square of the larger of 1 and e^x.
FALL = Decay(x)
MISH_OVER = Piecewise((1 + 2 * FALL, x >= 0), (FALL * (FALL + 2), True))
MISH_UNDER = MISH_OVER + Piecewise((2 * FALL**2, x >= 0), (2, True))
GELU_INNER = sqrt(2 / sp.pi) * (x + Rational("0.044715") * x**3)

PIECEWISE_LINEAR = (
    Activation("relu", Piecewise((0, x <= 0), (x, True)), torch="relu"),
    Activation(
        "leaky_relu",
        Piecewise((negative_slope * x, x <= 0), (x, True)),
        parameters=(("negative_slope", 0.01),),
        invertible=negative_slope > 0,
        torch="leaky_relu",
    ),
    Activation(
        "threshold",
        Piecewise((value, x <= threshold), (x, True)),
        parameters=(("threshold", 0.0), ("value", 0.0)),
        invertible=value <= threshold,
        torch="threshold",
    ),
    Activation(
        "hardsigmoid",
        Piecewise((0, x <= -3), (1, x >= 3), (sp.Mul(Rational(1, 6), x + 3, evaluate=False), True)),
        torch="hardsigmoid",
    ),
    Activation(
        "hardtanh",
        Piecewise((min_val, x <= min_val), (max_val, x >= max_val), (x, True)),
        parameters=(("min_val", -1.0), ("max_val", 1.0)),
        allowed=min_val <= max_val,
        torch="hardtanh",
    ),
    Activation("relu6", Piecewise((0, x <= 0), (6, x >= 6), (x, True)), torch="relu6"),
    Activation(
        "hardshrink",
        Piecewise((0, (x >= -lambd) & (x <= lambd)), (x, True)),
        parameters=(("lambd", 0.5),),
        invertible=lambd >= 0,
        torch="hardshrink",
    ),
    Activation(
        "softshrink",
        Piecewise((0, (x >= -lambd) & (x <= lambd)), (x - lambd, x > 0), (x + lambd, True)),
        parameters=(("lambd", 0.5),),
        allowed=lambd >= 0,
        torch="softshrink",
    ),
)

SMOOTH = (
    Activation(
        "celu",
        Piecewise((x, x > 0), (alpha * (exp(x / alpha) - 1), True)),
        stable=Piecewise((x, x > 0), (alpha * expm1(x / alpha), True)),
        parameters=(("alpha", 1.0),),
        from_output=(Piecewise((1, y > 0), (1 + y / alpha, True)),),
        invertible=alpha > 0,
        allowed=sp.Ne(alpha, 0),
        torch="celu",
    ),
    Activation(
        "elu",
        Piecewise((x, x > 0), (alpha * (exp(x) - 1), True)),
        stable=Piecewise((x, x > 0), (alpha * expm1(x), True)),
        parameters=(("alpha", 1.0),),
        from_output=(Piecewise((1, y > 0), (alpha + y, True)),),
        invertible=alpha > 0,
        torch="elu",
    ),
    Activation(
        "gelu",
        x * (1 + sp.erf(x / sqrt(2))) / 2,
        stable=x * NormalCdf(x),
        torch="gelu",
    ),
    Activation(
        "gelu_tanh",
        x * (1 + tanh(GELU_INNER)) / 2,
        stable=x * Logistic(2 * GELU_INNER),
        torch="gelu",
        torch_keywords=(("approximate", "tanh"),),
    ),
    Activation(
        "hardswish",
        Piecewise((0, x <= -3), (x, x >= 3), (x * (x + 3) / 6, True)),
        from_output=(
            Piecewise((0, (y >= 0) | (y <= Rational(-3, 8))), (-sqrt(9 + 24 * y) / 6, True)),
            Piecewise((0, y <= Rational(-3, 8)), (1, y >= 3), (sqrt(9 + 24 * y) / 6, True)),
        ),
        torch="hardswish",
    ),
    Activation(
        "logsigmoid",
        sp.log(1 / (1 + exp(-x))),
        stable=-Softplus(-x),
        from_output=(-expm1(y),),
        torch="logsigmoid",
    ),
    Activation(
        "mish",
        x * tanh(sp.log(1 + exp(x))),
        stable=x * MISH_OVER / MISH_UNDER,
        slope=MISH_OVER / MISH_UNDER
        + 4 * x * (1 + FALL) * Piecewise((FALL**2, x >= 0), (FALL, True)) / MISH_UNDER**2,
        torch="mish",
    ),
    Activation(
        "selu",
        SELU_SCALE * Piecewise((x, x > 0), (SELU_ALPHA * (exp(x) - 1), True)),
        stable=Piecewise((SELU_SCALE * x, x > 0), (SELU_SCALE * SELU_ALPHA * expm1(x), True)),
        from_output=(Piecewise((SELU_SCALE, y > 0), (SELU_SCALE * SELU_ALPHA + y, True)),),
        torch="selu",
    ),
    Activation(
        "sigmoid",
        1 / (1 + exp(-x)),
        stable=Logistic(x),
        from_output=(y * (1 - y),),
        torch="sigmoid",
    ),
    Activation("silu", x / (1 + exp(-x)), stable=x * Logistic(x), torch="silu"),
    Activation(
        "softplus",
        Piecewise((x, beta * x > threshold), (sp.log(1 + exp(beta * x)) / beta, True)),
        stable=Piecewise((x, beta * x > threshold), (Softplus(beta * x) / beta, True)),
        parameters=(("beta", 1.0), ("threshold", 20.0)),
        from_output=(-expm1(-beta * y),),
        # Below it the step down to the straight piece, e^-threshold, is more than fp32 rounding.
        invertible=threshold >= 16,
        torch="softplus",
    ),
    Activation(
        "softsign",
        x / (1 + Abs(x)),
        slope=1 / (1 + Abs(x)) ** 2,
        from_output=((1 - Abs(y)) ** 2,),
        torch="softsign",
    ),
    Activation(
        "tanh",
        tanh(x),
        slope=4 * LogisticSlope(2 * x),
        from_output=((1 - y) * (1 + y),),
        torch="tanh",
    ),
    Activation(
        "tanhshrink",
        x - tanh(x),
        stable=Piecewise((_small_tanhshrink(), Abs(x) < 1), (x - tanh(x), True)),
        slope=tanh(x) ** 2,
        torch="tanhshrink",
    ),
    Activation(
        "quick_gelu",
        x / (1 + exp(-Rational("1.702") * x)),
        stable=x * Logistic(Rational("1.702") * x),
    ),
    Activation(
        "squared_relu",
        Piecewise((0, x <= 0), (x**2, True)),
        from_output=(Piecewise((0, y <= 0), (2 * sqrt(y), True)),),
    ),
    Activation("exp", exp(x), from_output=(y,), torch="exp"),
)

GATED = (
    Activation("swiglu", x * u / (1 + exp(-x)), gate="silu"),
    Activation("geglu", x * u * (1 + sp.erf(x / sqrt(2))) / 2, gate="gelu"),
)

TABLE: dict[str, Activation] = {row.name: row for row in (*PIECEWISE_LINEAR, *SMOOTH, *GATED)}
