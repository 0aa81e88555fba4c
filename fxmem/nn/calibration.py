"""What `fxmem.calibrate` does to the drop-ins of a model: count their inputs, fit, set levels."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import torch

from fxmem.activations import store as tables
from fxmem.activations.calculus import kinks, slope_curve, step_slopes
from fxmem.activations.levels import Levels
from fxmem.activations.table import TABLE
from fxmem.functional.errors import squared_error

from .activation import DropIn
from .histogram import Histogram


class Answer(NamedTuple):
    """A site's activation, bits, counted inputs, and rms errors of two tables of levels."""

    activation: str
    bits: int
    elements: int
    normal: float
    own: float


def count(
    model: torch.nn.Module, sites: Sequence[DropIn], batches: Iterable[Any]
) -> dict[DropIn, Histogram]:
    """Run the model on all batches; return what each site was given."""
    histograms = {site: Histogram() for site in sites}

    def add(site: DropIn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Of a wrong call the site's own forward says what is wrong.
        for input in (*args, *kwargs.values())[:1]:
            histograms[site].add(input)

    hooks = [site.register_forward_pre_hook(add, with_kwargs=True) for site in sites]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), _undone(model):
            for batch in _progress(batches):
                _call(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return histograms


def fit(site: DropIn, seen: Histogram, bits: int | None, unbiased: bool | None) -> Answer | str:
    """Give a site the best levels for what it has seen, or say why not."""
    coding = site.coding()
    row = TABLE[coding.function]
    if coding.bits == 0:
        return "its gradient is exact, computed from the output"
    if step_slopes(row):
        return f"{row.name} is coded exactly"
    if not seen.elements:
        return f"none of its {seen.given} inputs is finite" if seen.given else "no batch reached it"
    width = coding.bits if bits is None else bits
    drawn = coding.drawn if unbiased is None else unbiased
    weight, breaks = seen.weight(), kinks(row, coding.parameters)
    slope = slope_curve(row, coding.parameters)
    try:
        normal, own = (
            tables.levels(row, width, of, parameters=coding.parameters, unbiased=drawn)
            for of in ("normal", weight)
        )
    except ValueError as error:
        return str(error)
    errors = (math.sqrt(squared_error(slope, table, weight, breaks)) for table in (normal, own))
    _set(site, own)
    return Answer(row.name, width, seen.elements, *errors)


def _set(site: DropIn, table: Levels) -> None:
    site.bits, site.unbiased = None, table.unbiased
    site.borders = None if table.unbiased else tuple(tables.with_ends(table).tolist())
    site.levels = tuple(table.levels.tolist())


def _call(model: torch.nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(*(batch if isinstance(batch, (tuple, list)) else (batch,)))


@contextlib.contextmanager
def _undone(model: torch.nn.Module) -> Iterator[None]:
    """Restore buffers, replaced ones too, and the random state afterwards."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    held = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    tensors = (*model.parameters(), *model.buffers())
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        for registry, buffers in held:
            registry.update(buffers)
        for buffer, content in before:
            buffer.copy_(content)


def _progress(batches: Iterable[Any]) -> Iterable[Any]:
    """Show a bar on a terminal, if tqdm is there."""
    if importlib.util.find_spec("tqdm") is None:
        return batches
    from tqdm import tqdm

    total = len(batches) if isinstance(batches, Sized) else None
    return tqdm(batches, "calibrating", total, unit="batch", disable=None)
