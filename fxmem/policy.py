"""What a user may ask for: a preset and the few options that refine it.

A :class:`Policy` is frozen and hashable: it is part of the key under which compiled code is cached.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fxmem.switches import CODE_BITS as CODE_BITS
from fxmem.switches import RULES as RULES
from fxmem.switches import SKETCHES as SKETCHES
from fxmem.switches import Check, check_ratio
from fxmem.switches import PolicyError as PolicyError

PRESETS = {"exact": None, "balanced": 8, "compact": 4}
BITS = (8, 7, 6, 5, 4, 3, 2)
GROUPS = (32, 64, 128, 256)
SHOWN = 5  # paths that a sentence names
ROUNDINGS = ("nearest", "stochastic")


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return the sentence that refuses `name`, with what is allowed and the nearest spelling."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {name!r}{hint}; allowed: {', '.join(allowed)}"


@dataclass(frozen=True)
class Policy:
    """What may be done to the tensors kept between forward and backward.

    Args:
        preset: `"exact"` (gradients equal up to rounding), `"balanced"` (8-bit residuals) or
            `"compact"` (4-bit residuals).
        bits: width of every encoded residual, 2 to 8, and of the codes of rule few_bit, which
            compact makes up to 4; default: the preset's on average, more where an error costs much
            and less where it costs little.
        group: elements that share one scale, 32, 64, 128 or 256; default: chosen with `bits`.
        rounding: `"nearest"`, or `"stochastic"`: unbiased, with more variance.
        min_bytes: residuals smaller than this many bytes are kept as they are, and of the others
            the smallest while they take no more than a 16th of what codes of all do.
        budget: `activation_memory_budget` of the cut, 0 < budget <= 1: below 1 more is recomputed.
        rules: rules by name: `False` forbids one, `True` or a dict of its own options asks for it,
            as in `{"quantized_gradient": {"bits": 3}}`; `{"sketch": 0.1}` is short for its ratio.
            :data:`RULES` has them all.

    Raises:
        PolicyError: for a value that is impossible or conflicts with another one, by name.
    """

    preset: str = "exact"
    bits: int | None = None
    group: int | None = None
    rounding: str = "nearest"
    min_bytes: int = 64 * 1024
    budget: float = 1.0
    rules: Mapping[str, bool | Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse impossible and conflicting values."""
        _choice("preset", self.preset, tuple(PRESETS))
        _choice("rounding", self.rounding, ROUNDINGS)
        for name, allowed in (("bits", BITS), ("group", GROUPS)):
            if getattr(self, name) is not None:
                _choice(name, getattr(self, name), allowed)
        if not _is_int(self.min_bytes) or self.min_bytes < 0:
            raise PolicyError(
                f"min_bytes must be a non-negative number of bytes, got {self.min_bytes!r}"
            )
        check_ratio("budget", self.budget)
        self._check_rules()
        self._check_conflicts()

    def _check_rules(self) -> None:
        if not isinstance(self.rules, Mapping):
            raise PolicyError(
                "rules must be a dict of rule name to True, False or a dict of the rule's options, "
                f"got {self.rules!r}"
            )
        rules = {}
        for name, value in self.rules.items():
            if name not in RULES:
                raise PolicyError(unknown("rule", str(name), RULES))
            rules[name] = _check_rule(name, value)
        object.__setattr__(self, "rules", copy.deepcopy(rules))  # the caller's may change

    def _check_conflicts(self) -> None:
        exact = self.preset == "exact"
        if not exact and self.allows("encode"):
            return
        why = "preset 'exact'" if exact else "rules={'encode': False}"
        hint = "; use preset 'balanced' or 'compact'" if exact else ""
        attention = self.option("encode", "attention", None)
        given = {"bits": self.bits, "group": self.group, "attention": attention}
        for name, value in {**given, "rounding": self.rounding}.items():
            if value not in (None, "nearest"):
                raise PolicyError(
                    f"{why} keeps residuals unencoded, so {name}={value!r} conflicts with it{hint}"
                )

    @property
    def width(self) -> int | None:
        """Bits of an encoded residual, None where residuals are kept exactly."""
        return self.bits if self.bits is not None else PRESETS[self.preset]

    @property
    def lossy(self) -> bool:
        """Whether residuals may be kept with less than their own precision."""
        return self.width is not None and self.allows("encode")

    def allows(self, rule: str, eager: bool = False) -> bool:
        """Whether a rule may act: it is on by itself and not forbidden, or was asked for."""
        on = RULES[rule].eager if eager else RULES[rule].on
        return self.rules.get(rule, on) is not False

    def asks(self, rule: str) -> bool:
        """Whether the user has asked for this rule by name."""
        return self.rules.get(rule, False) is not False

    def without_asked(self) -> Policy:
        """Return this policy without the rules that are off unless they are asked for."""
        kept = {k: value for k, value in self.rules.items() if RULES[k].on or value is False}
        return replace(self, rules=kept)

    def option(self, rule: str, name: str, default: Any) -> Any:
        """Return what the user gave as an option of a rule, else `default`."""
        given = self.rules.get(rule)
        return given.get(name, default) if isinstance(given, Mapping) else default

    def ratio(self, rule: str, path: str) -> float | None:
        """Return the ratio that a rule was given for a module, None where it was given none."""
        ratio, modules = (self.option(rule, name, None) for name in ("ratio", "modules"))
        if isinstance(modules, Mapping):
            return next((r for p, r in modules.items() if re.fullmatch(p, path)), ratio)
        return ratio if modules is None or re.fullmatch(modules, path) else None

    def unmatched(self, rule: str, paths: Iterable[str]) -> list[str]:
        """Return in sentences which patterns of a rule's modules fit none of these paths."""
        modules, paths = self.option(rule, "modules", None) or (), sorted(set(paths))
        named = ", ".join(path or "the model itself" for path in paths[:SHOWN])
        named += ", …" if len(paths) > SHOWN else ""
        return [
            f"{rule}: no path of a module in this graph matches {pattern!r}; there are: {named}"
            for pattern in ((modules,) if isinstance(modules, str) else modules)
            if paths and not any(re.fullmatch(pattern, path) for path in paths)
        ]

    def key(self) -> str:
        """Everything that changes the compiled code, in a stable spelling."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["rules"] = sorted(
            (name, sorted(value.items()) if isinstance(value, Mapping) else value)
            for name, value in self.rules.items()
        )
        return repr(sorted(values.items()))

    @classmethod
    def of(cls, policy: Policy | str | Mapping[str, Any] | None) -> Policy:
        """Return a policy from a policy, a preset's name, a dict of options or None (exact)."""
        if policy is None:
            return cls()
        if isinstance(policy, cls):
            return policy
        if isinstance(policy, str):
            return cls(policy)
        if isinstance(policy, Mapping):
            for name in policy:
                if name not in OPTIONS:
                    raise PolicyError(unknown("option", str(name), OPTIONS))
            return cls(**policy)
        raise PolicyError(f"policy must be a Policy, a preset's name or a dict, got {policy!r}")


OPTIONS = tuple(f.name for f in fields(Policy))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_rule(name: str, value: Any) -> bool | Mapping[str, Any]:
    """Return what is asked of a rule, a bare number spelled out."""
    main, options = RULES[name].main, RULES[name].options
    if isinstance(value, bool) and not (value and main):
        return value
    if main and isinstance(value, RULES[name].bare) and not isinstance(value, bool):
        value = {main: value}
    if not isinstance(value, Mapping) or not options:
        wanted = "True, False or a dict of its options" if options else "True or False"
        wanted = f"False, a {main} or a dict of its options" if main else wanted
        raise PolicyError(f"rules[{name!r}] must be {wanted}, got {value!r}")
    for option, choice in value.items():
        if option not in options:
            raise PolicyError(unknown(f"option of rule {name!r}", str(option), options))
        _choice(f"rules[{name!r}][{option!r}]", choice, options[option])
    if main and main not in value and not isinstance(value.get("modules"), Mapping):
        raise PolicyError(f"rules[{name!r}] needs a {main}, got {value!r}")
    return value


def _choice(name: str, value: object, allowed: tuple | range | Check) -> None:
    if callable(allowed):
        return allowed(name, value)
    if type(value) is type(allowed[0]) and value in allowed:
        return
    if isinstance(allowed, range):
        raise PolicyError(f"{name} must be from {allowed[0]} to {allowed[-1]}, got {value!r}")
    listed = ", ".join(map(repr, allowed))
    raise PolicyError(f"{name} must be one of {listed}, got {value!r}")
