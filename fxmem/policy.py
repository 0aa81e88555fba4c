"""What a user may ask for: a preset and the few options that refine it.

A :class:`Policy` is frozen and hashable: it is part of the key under which compiled code is cached.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

PRESETS = {"exact": None, "balanced": 8, "compact": 4}
BITS = (8, 7, 6, 5, 4, 3, 2)
GROUPS = (32, 64, 128, 256)
ROUNDINGS = ("nearest", "stochastic")
RULES = ("seeds", "remat", "discrete", "masks", "encode")


class PolicyError(ValueError):
    """An option that does not exist, cannot have this value, or conflicts with another one."""


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
        bits: width of every encoded residual, 2 to 8; default: the preset's on average, more where
            an error costs much and less where it costs little.
        group: elements that share one scale, 32, 64, 128 or 256; default: chosen with `bits`.
        rounding: `"nearest"`, or `"stochastic"`: unbiased, with more variance.
        min_bytes: residuals smaller than this many bytes are kept as they are.
        budget: `activation_memory_budget` of the cut, 0 < budget <= 1: below 1 more is recomputed.
        rules: rules by name, `False` to forbid one: see :data:`RULES`.

    Raises:
        PolicyError: for a value that is impossible or conflicts with another one, by name.
    """

    preset: str = "exact"
    bits: int | None = None
    group: int | None = None
    rounding: str = "nearest"
    min_bytes: int = 64 * 1024
    budget: float = 1.0
    rules: Mapping[str, bool] = field(default_factory=dict, hash=False)

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
        is_number = _is_int(self.budget) or isinstance(self.budget, float)
        if not is_number or not 0 < self.budget <= 1:
            raise PolicyError(f"budget must be a number in (0, 1], got {self.budget!r}")
        self._check_rules()
        self._check_conflicts()

    def _check_rules(self) -> None:
        if not isinstance(self.rules, Mapping):
            raise PolicyError(
                f"rules must be a dict of rule name to True or False, got {self.rules!r}"
            )
        object.__setattr__(self, "rules", dict(self.rules))  # the caller's may change
        for name, value in self.rules.items():
            if name not in RULES:
                raise PolicyError(unknown("rule", str(name), RULES))
            if not isinstance(value, bool):
                raise PolicyError(f"rules[{name!r}] must be True or False, got {value!r}")

    def _check_conflicts(self) -> None:
        exact = self.preset == "exact"
        if not exact and self.allows("encode"):
            return
        why = "preset 'exact'" if exact else "rules={'encode': False}"
        hint = "; use preset 'balanced' or 'compact'" if exact else ""
        for name, default in (("bits", None), ("group", None), ("rounding", "nearest")):
            value = getattr(self, name)
            if value != default:
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

    def allows(self, rule: str) -> bool:
        """Whether the user has left this rule on."""
        return self.rules.get(rule, True)

    def key(self) -> str:
        """Everything that changes the compiled code, in a stable spelling."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["rules"] = sorted(self.rules.items())
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


def _choice(name: str, value: object, allowed: tuple) -> None:
    if type(value) is not type(allowed[0]) or value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise PolicyError(f"{name} must be one of {listed}, got {value!r}")
