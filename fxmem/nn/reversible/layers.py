"""Where a model has layers one after another: by their path, or found by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .stack import ChainedForward

Module = torch.nn.Module
Layers = dict[str, list[tuple[str, Module]]]
LISTS = (torch.nn.ModuleList, torch.nn.Sequential)


def layers_of(model: Module, paths: str | Sequence[str] | None, keep_first: int) -> Layers:
    """Return for each stack's path its layers, each with its label, "encoder.layer.0 (BertLayer)".

    With `paths` None these are the outermost lists of two layers and more of one type that have
    parts themselves. The first `keep_first` of each are left out.

    Raises:
        ValueError: where there is no such list, none are left, or one is in a chain already.
    """
    if paths is None:
        paths = list(_outermost(model, ""))
        if not paths:
            raise ValueError(
                f"{type(model).__name__} has no list of layers of one type: give layers=, the path "
                'of a Sequential or ModuleList, as in "encoder.layer"'
            )
    paths = [paths] if isinstance(paths, str) else paths
    found = {path: _listed(model, path)[keep_first:] for path in paths}
    for path, layers in found.items():
        _check(path or type(model).__name__, layers)
    return found


def _outermost(module: Module, path: str) -> Iterator[str]:
    if _is_stack(module):
        yield path
        return
    for name, child in module.named_children():
        yield from _outermost(child, f"{path}.{name}" if path else name)


def _is_stack(module: Module) -> bool:
    if not isinstance(module, LISTS) or len(module) < 2:
        return False
    kinds = {type(layer) for layer in module}
    return len(kinds) == 1 and any(True for _ in module[0].children())


def _listed(model: Module, path: str) -> list[tuple[str, Module]]:
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__} has no module {path!r}") from error
    if not isinstance(module, LISTS):
        raise ValueError(f"{path!r} is no Sequential or ModuleList but {type(module).__name__}")
    start = f"{path}." if path else ""
    names = module._modules  # `named_children` leaves out a layer that stands there again
    return [(f"{start}{name} ({type(m).__name__})", m) for name, m in names.items()]


def _check(path: str, layers: list[tuple[str, Module]]) -> None:
    if not layers:
        raise ValueError(f"{path} has no layers left to convert")
    if any(isinstance(layer.__dict__.get("forward"), ChainedForward) for _, layer in layers):
        raise ValueError(f"layers of {path} are in a reversible chain already")
    for label, layer in layers:
        if "forward" in layer.__dict__:
            raise ValueError(f"{label} has a forward of its own, set on it: that would be lost")
    if len({layer for _, layer in layers}) < len(layers):
        raise ValueError(
            f"{path} holds one layer several times: a layer has one place in a chain; use copies, "
            "or ReversibleSequential and MomentumNet, where a block may stand several times"
        )
