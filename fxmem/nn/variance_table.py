"""The variance of every linear layer of a model, side by side: to pick a ratio for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxmem.ops.sketches.projection import Projection

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


def _row(path: str, found: Variance) -> tuple[str, ...]:
    ratio = found.sketch / found.sgd if found.sgd else float("inf")
    return (path, *(f"{v:.2e}" for v in (found.alpha, found.sgd, found.sketch)), f"{ratio:.2f}")


def variances(
    model: torch.nn.Module, step: Callable[[], object], projection: Projection | None = None
) -> Variances:
    """Run `step`, forwards and backwards of `model`, and return what its linear layers show.

    Args:
        projection: what to estimate for; default: each module's own, of those that have one.

    Raises:
        ValueError: for an impossible projection.
    """
    told: dict[str, list[Variance]] = {}
    estimators = [
        VarianceEstimator(module, _add(told.setdefault(path, [])), projection)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module.weight.requires_grad
        and (projection or hasattr(module, "projection"))
    ]
    try:
        step()
    finally:
        for estimator in estimators:
            estimator.remove()
    return Variances({path: _mean(found) for path, found in told.items() if found})


def _add(found: list[Variance]) -> Callable[[Variance, int], None]:
    return lambda variance, step: found.append(variance)


def _mean(found: list[Variance]) -> Variance:
    return Variance(*(sum(values) / len(found) for values in zip(*found, strict=True)))
