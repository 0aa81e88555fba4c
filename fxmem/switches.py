"""The rules as a user sees them: which are on by themselves, and what may be asked of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CODE_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
SKETCHES = ("gaussian", "rademacher", "dct", "dft", "hadamard", "crs", "crs_norm")
Check = Callable[[str, object], None]
METHODS = (
    r"int8(:stochastic)?|wageubn8|dorefa:[1-8],[1-8],([1-8]|32)|binarynet|xnor|binaryconnect|bwn"
)


class PolicyError(ValueError):
    """An option that does not exist, cannot have this value, or conflicts with another one."""


@dataclass(frozen=True)
class Switch:
    """A rule as a user sees it: whether it is on by itself, and what its own options may be.

    Attributes:
        on: in a compiled model.
        eager: in `fxmem.transform`.
    """

    on: bool = True
    eager: bool = False
    options: Mapping[str, tuple | range | Check] = field(default_factory=dict)
    main: str | None = None  # the option that a bare value stands for; True then asks for nothing
    bare: tuple[type, ...] = (int, float)  # of a bare value


def check_ratio(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise PolicyError(f"{name} must be a number in (0, 1], got {value!r}")


def _check_modules(name: str, value: object) -> None:
    for pattern, ratio in (value if isinstance(value, Mapping) else {value: 1}).items():
        try:
            re.compile(pattern)
        except (TypeError, re.error) as error:
            wanted = "a regular expression, or a dict of them to ratios"
            raise PolicyError(f"{name} must be {wanted}, got {value!r}") from error
        check_ratio(f"{name}[{pattern!r}]", ratio)


def _check_method(name: str, value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(METHODS, value):
        names = (
            "int8, int8:stochastic, wageubn8, binarynet, xnor, binaryconnect, bwn or dorefa:W,A,G"
        )
        widths = "with W and A from 1 to 8 and G from 1 to 8 or 32"
        raise PolicyError(f"{name} must be {names} {widths}, got {value!r}")


SKETCH = {"ratio": check_ratio, "kind": SKETCHES, "modules": _check_modules}
INTEGER = {"method": _check_method, "first_and_last": (False, True)}
RULES = {
    "seeds": Switch(),
    "reversible": Switch(
        options={
            **dict.fromkeys(("force", "exact", "float64"), (False, True)),
            **{"anchor": range(2**16), "keep": check_ratio},
        }
    ),
    "remat": Switch(),
    "discrete": Switch(),
    "masks": Switch(),
    "places": Switch(),
    "parts": Switch(),
    "few_bit": Switch(options={"bits": CODE_BITS}),
    # Bits of queries, keys and values: more where attention is sharper than at initialisation.
    "encode": Switch(options={"attention": range(2, 9)}),
    # Unbiased, not exact, so by name alone. `force` sketches where no byte is saved as well.
    "sketch": Switch(on=False, options=SKETCH | {"force": (False, True)}, main="ratio"),
    # This one, and those below by name alone, rewrite what is computed before differentiation.
    "chunked_loss": Switch(eager=True),
    "integer": Switch(on=False, options=INTEGER, main="method", bare=(str,)),
    "gated": Switch(on=False, eager=True),
    "from_output": Switch(on=False, eager=True),
    "exact_codes": Switch(on=False, eager=True),
    "norm_from_output": Switch(on=False, eager=True),
    "quantized_gradient": Switch(on=False, options={"bits": CODE_BITS, "unbiased": (False, True)}),
}
