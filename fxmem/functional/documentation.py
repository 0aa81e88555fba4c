"""What `help` says of an activation, from its row."""

from __future__ import annotations

import textwrap

import sympy as sp

from fxmem.activations.table import TABLE, Activation

from .signatures import arguments, torch_function, variants

OPTIONS = """\
bits: bits of a code of the slope, 1 to 8; 3 unless others are given. A piecewise linear activation
    is coded exactly in as few as it takes, whatever is asked for. The levels are those that
    `fxmem.functional.store` holds, else the best ones for normally distributed inputs.
borders, levels: your own codes instead of `bits`: the slope is taken for levels[i] where i borders
    lie below the input. Either the inner borders, one fewer than levels, or FewBit's, with the ends
    of the domain around them, which count for nothing, except that a first border of 0 says that
    the slope is even and |input| is coded.
keep: "codes", or "output": then the gradient is exact, computed from the output, which is kept, and
    one bit an element where the activation is not monotone. It costs nothing where the output is
    kept anyway, by a layer that follows.
unbiased: draw each code, from torch's generator, between the two levels around the slope, so that
    the gradient's expectation is exact. `levels` then ascend over the slope's range, all of it
    where it is bounded, and there are no borders."""
RAISES = """\
ValueError: for options that are impossible or exclude each other.
RuntimeError: for an input that is not float32, bfloat16, float16 or float64, and if gradients are
    differentiated again."""


def formula(row: Activation) -> str:
    """The row's definition as a line of text."""
    long = [number for number in row.definition.atoms(sp.Rational) if number.q > 1000]
    text = row.definition.xreplace({number: sp.Float(number, 8) for number in long})
    return f"{row.name}({'x, u' if row.gate else 'x'}) = {text}"


def document(row: Activation) -> str:
    """The docstring of a row's function."""
    if row.gate:
        return _gated(row)
    parts = [f"{_title(row)}, keeping a few bits of its slope for the backward.", formula(row)]
    named = _named(row)
    parts.append(_section("Args", f"input: of any shape and strides.\n{named}{OPTIONS}"))
    parts.append(_section("Raises", RAISES))
    return "\n\n".join(parts) + "\n"


def _title(row: Activation) -> str:
    function = torch_function(row)
    if function is None:
        return f"The activation {row.name}"
    space = "torch" if function.__module__ in (None, "torch") else "torch.nn.functional"
    chosen = "".join(f", {keyword}={value!r}" for keyword, value in row.torch_keywords)
    return f"{space}.{row.torch}(input{chosen})" if chosen else f"{space}.{row.torch}"


def _named(row: Activation) -> str:
    lines = [f"{name}: see the formula." for name, _ in row.parameters]
    for keyword, rows in variants(row).items():
        choices = "; ".join(f"{value!r}: {formula(r)}" for value, r in rows.items())
        lines.append(f"{keyword}: {choices}.")
    if "inplace" in arguments(row):
        lines.append("inplace: overwrite the input with the output, which is returned.")
    return "".join(f"{line}\n" for line in lines)


def _gated(row: Activation) -> str:
    head = f"{TABLE[row.gate].name}(gate) * up, keeping gate and up alone; its gradient is exact."
    alike = "gate, up: of one shape, dtype and device; of any strides."
    return "\n\n".join([head, formula(row), _section("Args", alike)]) + "\n"


def _section(title: str, text: str) -> str:
    return f"{title}:\n{textwrap.indent(text, '    ')}"
