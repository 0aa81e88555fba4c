"""The generated header is fresh, the same everywhere, and costs a new activation one row."""

import os
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

from fxmem.activations import calculus, codegen
from fxmem.activations.primitives import Held, Logistic, lower
from fxmem.activations.printing import Printer
from fxmem.activations.table import TABLE, Activation, x


def test_header_is_fresh():
    assert codegen.main(["--check"]) == 0


def test_stale_header_is_found(tmp_path, monkeypatch, text):
    header = tmp_path / "activations.h"
    monkeypatch.setattr(codegen, "header", lambda: text)
    monkeypatch.setattr(codegen, "HEADER", header)
    assert "is stale: run python -m fxmem.activations.codegen" in codegen.main(["--check"])
    assert codegen.main([]) == 0
    assert codegen.main(["--check"]) == 0
    header.write_text(header.read_text() + "\n")
    assert codegen.main(["--check"]) != 0


def test_header_does_not_depend_on_hashes():
    command = [sys.executable, "-m", "fxmem.activations.codegen", "--check"]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)


@pytest.fixture(scope="module")
def text():
    return codegen.header()


def test_every_row_but_the_gated_has_a_functor(text):
    for row in TABLE.values():
        assert (f'kName = "{row.name}";' in text) == (row.gate is None)


def test_functors_have_no_branches(text):
    body = text.partition("// Calls with the functor")[0]
    assert not any(word in body for word in ("if (", "?", "for (", "while"))


def test_a_new_activation_is_one_row():
    row = Activation("slow_silu", x / (1 + sp.exp(-x / 4)), stable=x * Logistic(x / 4))
    text = codegen.functor(row)
    assert text.startswith("struct SlowSilu {\n")
    assert "kParameters = 0" in text and "kStepwise = false" in text and "kBranches = 2" in text
    for member in ("value(R x,", "slope(R x,", "branch(R x,", "slope_from_output(R y, bool branch"):
        assert member in text


def test_a_new_step_function_is_one_row():
    low = sp.Symbol("low", real=True)
    row = Activation(
        "kinked", sp.Piecewise((low * x, x <= 0), (2 * x, True)), parameters=(("low", 0.5),)
    )
    text = codegen.functor(row)
    assert "kStepwise = true" in text and "int32_t code(R x, const R* /*p*/)" in text
    assert "const R low = p[0];" in text
    assert calculus.step_levels(row, (0.25,)) == (0.25, 2.0)


def test_reach_keeps_the_arguments_of_quick_functions_within_their_limits():
    """And is no smaller than that: at its end one of them is at the limit."""
    for name in ("gelu", "gelu_tanh", "silu", "mish", "tanh", "quick_gelu"):
        row = TABLE[name]
        far, exprs = calculus.reach(row), (calculus.value(row), calculus.evaluated_slope(row))
        shares = [
            float(abs(node.args[0].subs(x, far)) / limit)
            for function, limit in calculus.QUICK_LIMITS.items()
            for expr in exprs
            for node in lower(expr).xreplace({Held(x): x}).atoms(function)
        ]
        assert max(shares) == pytest.approx(1, abs=1e-6), name


def test_reach_follows_the_parameters():
    alpha, beta = (sp.Symbol(name, real=True) for name in ("alpha", "beta"))
    assert calculus.reach(TABLE["celu"]) == 87 * sp.Abs(alpha)
    assert calculus.reach(TABLE["softplus"]) == 87 / sp.Abs(beta)
    assert calculus.reach(TABLE["relu"]) is None


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        ((x + 3) * x / 6, "(x * (3 + x) / 6)"),
        (x / 6 + sp.Rational(1, 2), "((3 + x) / 6)"),
        (x / 4, "(0.25 * x)"),
        (1 / (1 + x) ** 2, "(1 / ((1 + x) * (1 + x)))"),
        (-sp.exp(x), "(-exp_of(x))"),
        (1 - x, "(1 - x)"),
        (sp.cbrt(sp.Abs(x)), "exp_of((log_of(abs_of(x)) / 3))"),
        (sp.Piecewise((0, (x < 0) | (x > 1)), (x, True)), "select(((x < 0) | (x > 1)), 0, x)"),
    ],
)
def test_printed_text(expr, text):
    assert Printer(str)(expr) == text


def test_what_cannot_be_printed_says_so():
    with pytest.raises(ValueError, match="no primitive evaluates sin in sin"):
        Printer(str)(sp.sin(x))


def test_curves_keep_shape_and_dtype():
    row = TABLE["relu"]
    for points in (np.array(2.0), np.zeros((3, 0)), np.ones((2, 3))):
        for expr in (calculus.value(row), calculus.slope(row), sp.Integer(3)):
            found = calculus.curve(expr, row, dtype=np.float32)(points)
            assert found.shape == points.shape and found.dtype == np.float32
