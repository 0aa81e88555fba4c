"""The variance of every linear layer of a model, side by side: to pick a ratio for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from fxmem.ops.sketches.projection import Projection

from .conv1d import RandomizedConv1D, is_conv1d
from .gradient_variance import Variance, VarianceEstimator

HEAD = ("module", "alpha", "batch", "sketch", "sketch / batch")


@dataclass(frozen=True)
class Variances:
    """What :func:`variances` has measured: the mean over backwards, by the module's path."""

    modules: dict[str, Variance]

    def __str__(self) -> str:
        """One line a module: a sketch that adds less than the batch's own does little harm."""
        rows = [HEAD, *(_row(path, found) for path, found in self.modules.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def sentences(self) -> tuple[str, ...]:
        """The same for a report, a sentence a module."""
        return tuple(
            f"sketch: {path}: measured, its variance is {_ratio(found):.2f} times the batch's own "
            f"(alpha {found.alpha:.1e})"
            for path, found in self.modules.items()
        )


def _row(path: str, found: Variance) -> tuple[str, ...]:
    shown = (f"{value:.2e}" for value in (found.alpha, found.sgd, found.sketch))
    return (path, *shown, f"{_ratio(found):.2f}")


def _ratio(found: Variance) -> float:
    return found.sketch / found.sgd if found.sgd else float("inf")


def variances(
    model: torch.nn.Module,
    step: Callable[[], object],
    projection: Projection | Mapping[str, Projection] | None = None,
) -> Variances:
    """Run `step`, forwards and backwards of `model`, and return what its linear layers show.

    Args:
        projection: what to estimate for, in all torch.nn.Linear and transformers' Conv1D, or by the
            module's path; default: each module's own, of those that have one.

    Raises:
        ValueError: for an impossible projection.
    """
    told: dict[str, list[Variance]] = {}
    estimators = [
        VarianceEstimator(module, _add(told.setdefault(path, [])), wanted)
        for path, module, wanted in _layers(model, projection)
    ]
    try:
        step()
    finally:
        for estimator in estimators:
            estimator.remove()
    return Variances({path: _mean(found) for path, found in told.items() if found})


def _layers(
    model: torch.nn.Module, projection: Projection | Mapping[str, Projection] | None
) -> Iterator[tuple[str, torch.nn.Module, Projection]]:
    for path, module in model.named_modules():
        own = getattr(module, "projection", None)
        if isinstance(projection, Mapping):
            wanted = projection.get(path)
        else:
            wanted = projection or own if _is_linear(module) else None
        if wanted is not None and module.weight.requires_grad:
            yield path, module, wanted


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear | RandomizedConv1D) or is_conv1d(module)


def _add(found: list[Variance]) -> Callable[[Variance, int], None]:
    return lambda variance, step: found.append(variance)


def _mean(found: list[Variance]) -> Variance:
    return Variance(*(sum(values) / len(found) for values in zip(*found, strict=True)))
