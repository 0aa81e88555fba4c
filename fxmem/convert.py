"""Put drop-in modules into a model: by type, by name or by predicate, and say what was changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fxmem.nn.rules import Key, Value

Module = torch.nn.Module


@dataclass(frozen=True)
class Change:
    """A module that was replaced: its paths, what it was and what it is."""

    paths: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class Unchanged:
    """A module that was asked for and is left as it was, with the reason."""

    paths: tuple[str, ...]
    before: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        model: the one it was given, unless that itself was replaced.
        changes, refusals: of the modules that a rule fits.
        left: linear layers that none fits, where rules say which types are to be sketched.
    """

    model: Module
    changes: tuple[Change, ...]
    refusals: tuple[Unchanged, ...]
    left: tuple[Unchanged, ...] = ()

    def __str__(self) -> str:
        """One line a change, one a reason for none, and the count."""
        lines = [f"{_joined(c.paths)}: {c.before} -> {c.after}" for c in self.changes]
        lines += [*_grouped("unchanged", self.refusals), *_grouped("not asked for", self.left)]
        return "\n".join([*lines, f"{len(self.changes)} changed, {len(self.refusals)} refused"])


def convert(model: Module, rules: Mapping[Key, Value]) -> Conversion:
    """Replace modules of `model`, in place; print what is returned to see which.

    A module that stands in several places is replaced once, in all of them. Keys and shapes of the
    state_dict stay as they are. For each module the first rule that fits it counts. Modules with
    hooks, or whose own `forward` was replaced, are left.

    Args:
        rules: what to replace, and by what. A key is
            - a type: modules of that very type, and the drop-in for it if it is one of torch.nn;
            - a regular expression, which must match the whole dotted path ("layers\\.\\d+\\.act");
            - a predicate of the module and its path; `fxmem.nn.is_activation` fits all that have a
              drop-in, whatever library they are from.
            A value is
            - options of `fxmem.nn`, as dict(bits=2), for the drop-in of what stands there, which
              takes over its settings; "output" and "codes" stand for dict(keep=…). A module that is
              not torch's, such as transformers' activations, is known by what it computes, which
              must be the same in training and evaluation; its attributes are read once, now.
              "output" also fits norms, torch's and those that are written by hand, such as
              LlamaRMSNorm, which then keep their output, so that nothing may overwrite it, as
              ReLU(inplace=True) would, and dict() these, Dropout, AlphaDropout and max pools,
              which take no other options;
            - dict(sketch=0.1), or dict(sketch=dict(proj_dim_ratio=…, matmul=…)) with the options of
              `fxmem.nn.RandomizedLinear`, which takes over a torch.nn.Linear's parameters, and
              `fxmem.nn.RandomizedConv1D` those of transformers' Conv1D, as GPT-2 has them. Linear
              layers of a type that no key fits are named in what is printed;
            - a type of module: made without arguments;
            - a function that takes the old module and returns the new one.

    Raises:
        TypeError: for a value that is nothing of these, or a function that returns no module.
        ValueError: for a key that fits nothing, impossible options, or a new module with another
            state_dict. The model is then left as it was.
    """
    from fxmem.nn.rules import checked, chosen, left_out, replacement

    sites, values = _sites(model), checked(rules)
    found, changes, refusals, twins = chosen(sites, values), [], [], {}
    for module, (paths, value) in found.items():
        twin = replacement(value, module)
        if isinstance(twin, str):
            refusals.append(Unchanged(paths, _described(module), twin))
        elif twin is not module:
            _check_state(module, twin, paths)
            twins[module] = twin
            changes.append(Change(paths, *_both(module, twin)))
    left = left_out(sites, values, found).items()
    others = tuple(Unchanged(sites[module], _described(module), why) for module, why in left)
    model = map_module(model, lambda module, path: twins.get(module, module))
    return Conversion(model, tuple(changes), tuple(refusals), others)


def map_module(
    root: Module, fn: Callable[[Module, str], Module], pattern: str | None = None
) -> Module:
    """Replace each module by `fn(module, path)`, children before parents; return the new root.

    `fn` returns what it is given where nothing is to change. It is called once for a module that
    stands in several places. With `pattern`, a regular expression, only modules are given to it
    whose whole dotted path matches ("" is the root's).
    """
    sites, done = _sites(root), {}

    def visit(module: Module) -> Module:
        if module not in done:
            for name, child in module._modules.items():
                if child is not None:
                    module._modules[name] = visit(child)
            paths = (p for p in sites[module] if pattern is None or re.fullmatch(pattern, p))
            path = next(paths, None)
            done[module] = module if path is None else fn(module, path)
        return done[module]

    return visit(root)


def _sites(root: Module) -> dict[Module, tuple[str, ...]]:
    """Every module with all its paths."""
    found: dict[Module, tuple[str, ...]] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        found[module] = (*found.get(module, ()), path)
    return found


def _check_state(module: Module, twin: Module, paths: tuple[str, ...]) -> None:
    before, after = ({k: v.shape for k, v in m.state_dict().items()} for m in (module, twin))
    if before != after:
        raise ValueError(
            f"{_joined(paths)}: the state_dict of {type(twin).__name__} holds "
            f"{sorted(after) or 'nothing'}, that of {type(module).__name__} "
            f"{sorted(before) or 'nothing'}, or of other shapes"
        )


def _joined(paths: tuple[str, ...]) -> str:
    return ", ".join(path or "the model itself" for path in paths)


def _grouped(title: str, modules: tuple[Unchanged, ...]) -> list[str]:
    """A line for all that are left for the same reason."""
    why: dict[str, list[str]] = {}
    for module in modules:
        why.setdefault(module.reason, []).append(_joined(module.paths))
    return [f"{_few(paths)}: {title}: {reason}" for reason, paths in why.items()]


def _few(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _both(module: Module, twin: Module) -> tuple[str, str]:
    """What a module was and what it is, which says whose it is where they read the same."""
    before, after = _described(module), _described(twin)
    return before, f"{type(twin).__module__}.{after}" if after == before else after


def _described(module: Module) -> str:
    return type(module).__name__ if module._modules else repr(module)
