"""Writes native/generated/activations.h: `python -m fxmem.activations.codegen [--check]`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import sympy as sp

from .calculus import evaluated_slope, reach, step_code, step_slopes, value
from .inverse import branch_at, branches, from_output
from .printing import Printer
from .table import TABLE, Activation

HEADER = Path(__file__).parents[2] / "native" / "generated" / "activations.h"
FIRST = """\
// Written by `python -m fxmem.activations.codegen` from fxmem/activations/table.py: edit that.
#pragma once

#include <cstdint>
#include <string>

#include "../functions.h"

// Functors of one activation each; `p` points to the parameters. Where kStepwise, `code` says which
// of the distinct slopes x has. Parameters are then rounded to x's dtype first, as torch does,
// since saturated outputs are known by them. `slope_from_output` is right where `invertible`. Where
// kQuick, and |x| is at most `reach`, quicker functions serve `value` and `slope`.
namespace fxmem {
"""
LAST = """\
// Calls with the functor of that name; false where there is none.
template <typename Call>
bool with_activation(const std::string& name, const Call& call) {{
{cases}
  return false;
}}

}}  // namespace fxmem
"""
CASE = """\
  if (name == {name}::kName) {{
    call({name}{{}});
    return true;
  }}"""
cpp = Printer(lambda digits: f"FXMEM_REAL({digits})", digits=21)


def camel_case(name: str) -> str:
    """The functor's name: gelu_tanh is GeluTanh."""
    return "".join(part.capitalize() for part in name.split("_"))


def function(
    row: Activation, name: str, takes: tuple[str, ...], expr: sp.Basic, result: str = "R"
) -> str:
    """The member function `name` that evaluates `expr`; an argument it does not use is unnamed."""
    program = cpp.program(expr)
    used = {symbol.name for symbol in expr.free_symbols}
    places = [(name, i) for i, (name, _) in enumerate(row.parameters) if name in used]
    arguments = [*map(str.split, takes), ("const R*", "p")]
    shown = used | {"p"} if places else used
    typed = [f"{kind} {a}" if a in shown else f"{kind} /*{a}*/" for kind, a in arguments]
    lines = [f"const R {parameter} = p[{i}];" for parameter, i in places]
    lines += [f"const auto {step} = {text};" for step, text in program.steps]
    text = f"static_cast<int32_t>({program.result})" if result == "int32_t" else program.result
    head = ["  template <typename R>", f"  FXMEM_INLINE {result} {name}({', '.join(typed)}) {{"]
    return "\n".join([*head, *(f"    {line}" for line in lines), f"    return {text};", "  }"])


def members(row: Activation) -> Iterator[str]:
    """What the functor of `row` holds."""
    count = branches(row)
    yield f'  static constexpr const char* kName = "{row.name}";'
    yield f"  static constexpr int kParameters = {len(row.parameters)};"
    yield f"  static constexpr bool kStepwise = {str(bool(step_slopes(row))).lower()};"
    yield f"  static constexpr int kBranches = {count};"
    yield f"  static constexpr bool kQuick = {str(reach(row) is not None).lower()};"
    if reach(row) is not None:
        yield function(row, "reach", (), reach(row))
    yield function(row, "value", ("R x",), value(row))
    yield function(row, "slope", ("R x",), evaluated_slope(row))
    if step_slopes(row):
        yield function(row, "code", ("R x",), step_code(row), "int32_t")
    if count == 2:
        yield function(row, "branch", ("R x",), branch_at(row), "bool")
    if count:
        yield function(row, "slope_from_output", ("R y", "bool branch"), from_output(row))
        yield function(row, "invertible", (), row.invertible, "bool")


def functor(row: Activation) -> str:
    """The struct of `row`."""
    return "\n".join([f"struct {camel_case(row.name)} {{", *members(row), "};\n"])


def header() -> str:
    """The text of activations.h; gated rows use the functor of their gate."""
    rows = [row for row in TABLE.values() if row.gate is None]
    cases = "\n".join(CASE.format(name=camel_case(row.name)) for row in rows)
    return "\n".join([FIRST, *map(functor, rows), LAST.format(cases=cases)])


def main(arguments: list[str] | None = None) -> int:
    """Write the header, or with --check say whether it is what would be written."""
    parser = argparse.ArgumentParser(
        prog="python -m fxmem.activations.codegen", description=__doc__
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail where it is stale"
    )
    text = header()
    if parser.parse_args(arguments).check:
        fresh = HEADER.exists() and HEADER.read_text() == text
        return 0 if fresh else f"{HEADER} is stale: run python -m fxmem.activations.codegen"
    HEADER.parent.mkdir(parents=True, exist_ok=True)
    HEADER.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
