"""Levels for a model's own activations: each site has the best ones for what it really sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fxmem.activations.widths import check_widths
from fxmem.convert import Conversion
from fxmem.convert import convert as replace

Module = torch.nn.Module


@dataclass(frozen=True)
class Calibrated:
    """A site with levels of its own.

    Args:
        path: where it stands, the first place of several.
        activation: the row of the table that it computes.
        bits: of a code.
        elements: how many inputs were counted.
        normal, own: root mean square error of the slope for these inputs, with as many levels that
            are best for normally distributed ones, and with those that the site has now.
    """

    path: str
    activation: str
    bits: int
    elements: int
    normal: float
    own: float


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` did; `refusals` are paths of sites left as they were, with the reason."""

    sites: tuple[Calibrated, ...]
    refusals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """One line a site: the slope's error without its own levels, and with them."""
        lines = [
            f"{site.path}: {site.activation}, {site.bits} bits, {site.elements} inputs: "
            f"rms error {site.normal:.2e} -> {site.own:.2e}"
            for site in self.sites
        ]
        return "\n".join([*lines, *(f"{path}: unchanged: {why}" for path, why in self.refusals)])


def calibrate(
    model: Module,
    batches: Iterable[Any],
    bits: int | None = None,
    *,
    unbiased: bool | None = None,
    convert: bool = False,
) -> Calibration:
    """Give each few-bit activation of fxmem.nn in `model` the best levels for its own inputs.

    The model runs forward on all batches, without gradients, in the mode that it is in (train or
    eval). Buffers and the random state are as before when it ends, and what is compiled runs
    uncompiled; code that is compiled later has the new levels.

    Args:
        batches: a list, a DataLoader, …: for each call of the model a tensor, a tuple of arguments
            or a dict of them.
        bits: of every site's codes, 1 to 8; as each site has it, if None.
        unbiased: whether codes are drawn; as each site has it, if None.
        convert: first replace torch's activations, and other libraries', by those of fxmem.nn.

    Raises:
        TypeError: for one batch in place of several.
        ValueError: where the model has no such activation, and for bits other than 1 to 8.
    """
    from fxmem.nn import DropIn
    from fxmem.nn.calibration import count, fit

    check_widths(() if bits is None else (bits,))
    if isinstance(batches, (torch.Tensor, Mapping)):
        raise TypeError(
            f"batches must be a list or another iterable of batches; got a "
            f"{type(batches).__name__}: give [batch] if it is one"
        )
    converted = _convert(model) if convert else None
    sites = {module: path for path, module in model.named_modules() if isinstance(module, DropIn)}
    if not sites:
        raise ValueError(f"the model has no activation of fxmem.nn{_why_none(model, converted)}")
    seen = count(model, list(sites), batches)
    answers = {path: fit(site, seen[site], bits, unbiased) for site, path in sites.items()}
    found = (Calibrated(path, *a) for path, a in answers.items() if not isinstance(a, str))
    refused = [(path, why) for path, why in answers.items() if isinstance(why, str)]
    left = converted.refusals if converted else ()
    refused += [(site.paths[0], site.reason) for site in left]
    return Calibration(tuple(found), tuple(refused))


def _why_none(model: Module, converted: Conversion | None) -> str:
    if converted is None:
        return " (convert=True makes them)"
    if converted.model is not model:
        return ": it is one itself, which convert=True cannot replace (fxmem.convert can)"
    if converted.refusals:
        reasons = {f"{site.paths[0]}: {site.reason}" for site in converted.refusals}
        return f", and none can be made: {'; '.join(sorted(reasons))}"
    return ", nor one that convert=True could replace"


def _convert(model: Module) -> Conversion:
    from fxmem.nn import DropIn, is_activation

    def foreign(module: Module, path: str) -> bool:
        return not isinstance(module, DropIn) and is_activation(module)

    if any(foreign(module, "") for module in model.modules()):
        return replace(model, {foreign: "codes"})
    return Conversion(model, (), ())
