"""A row of the table becomes a Python function, as a dataclass's fields become its `__init__`.

The text is compiled, so that torch.compile sees a plain function with plain arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter

from fxmem.activations.table import Activation

from . import activate
from .documentation import document
from .signatures import arguments, signature


def make(row: Activation) -> Callable:
    """The function of a row: its signature, documentation and name."""
    plan = signature(row)
    bare = [parameter.replace(annotation=Parameter.empty) for parameter in plan.parameters.values()]
    text = f"def {row.name}{inspect.Signature(bare)}:\n    return {_call(row)}\n"
    made: dict[str, Callable] = {}
    # In the globals of a module, where Dynamo looks up what the text calls.
    exec(compile(text, f"<fxmem.functional.{row.name}>", "exec"), vars(activate), made)
    function = made[row.name]
    function.__module__ = "fxmem.functional"
    function.__annotations__ = {p.name: p.annotation for p in plan.parameters.values()}
    function.__annotations__["return"] = plan.return_annotation
    function.__doc__ = document(row)
    return function


def _call(row: Activation) -> str:
    if row.gate:
        return f"gated({row.name!r}, gate, up)"
    own = ", ".join(f"{name!r}: {name}" for name in arguments(row))
    return f"activate({row.name!r}, input, {{{own}}}, bits, borders, levels, keep, unbiased)"
