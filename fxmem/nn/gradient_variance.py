"""How far a sketched weight gradient is off, beside how far a batch's own is: to pick the ratio.

Of the gradient Yᵀ X of a weight, summed over the n rows of the layer's input X and of its output's
gradient Y (Novikov et al., Memory-Efficient Backpropagation through Large Linear Layers, 2022):

    sgd    n/(n-1) Σ |x|²|y|² - |Xᵀ Y|²/(n-1)     the batch's own
    rmm    (|X|²|Y|² - |Xᵀ Y|²) / k               the sketch's, as the paper has it
    alpha  |Xᵀ Y|² / (|X|²|Y|²)

The paper's sign before |Xᵀ Y|² is not that of a Gaussian S, and other kinds have terms of their
own: `sketch` is what comes of the kind in use, with its blocks, |X|²|Y|² + |Xᵀ Y|² over k at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from fxmem.ops.sketches.projection import Projection, check
from fxmem.ops.sketches.reference import BLOCK, Block, blocks


class Variance(NamedTuple):
    """Squared distances (Frobenius) from the expectation, and the share alpha of the signal.

    The paper has (k / (n - 1)) rmm / sgd <= (alpha + 1) / alpha.
    """

    alpha: float
    sgd: float
    rmm: float
    sketch: float


def variance(x: torch.Tensor, y: torch.Tensor, projection: Projection) -> Variance:
    """What a sketch of `x` [..., in] costs the weight's gradient, for the output's gradient `y`.

    Exact for gaussian, rademacher, crs and crs_norm; for hadamard, dct and dft of rows that a
    random sign makes alike. Raises ValueError for a projection that does not fit.
    """
    check(projection)
    x, y = (t.detach().reshape(-1, t.size(-1)) for t in (x, y))
    x, y = (t if t.dtype == torch.float64 else t.float() for t in (x, y))
    n, k = x.size(0), projection.rows(x.size(0))
    total = _moments(x, y)
    sgd = (n * total.own - total.product) / max(n - 1, 1)
    rmm = (total.energy - total.product) / k
    alpha = total.product / total.energy if total.energy else 0.0
    if k == n or not total.energy:
        return Variance(alpha, sgd, rmm, 0.0)
    if projection.matmul == "crs_norm":
        return Variance(alpha, sgd, rmm, _strata(x.norm(dim=1), k, x, y))
    parts = (_of_block(projection.matmul, b, x, y) for b in blocks(n, k))
    return Variance(alpha, sgd, rmm, sum(parts))


class _Moments(NamedTuple):
    """|X|²|Y|², |Xᵀ Y|² and Σ |x|²|y|²."""

    energy: float
    product: float
    own: float


def _moments(x: torch.Tensor, y: torch.Tensor) -> _Moments:
    rows = [t.square().sum(1, dtype=torch.float64) for t in (x, y)]
    product = (x.mT @ y).square().sum(dtype=torch.float64)
    sums = rows[0].sum() * rows[1].sum(), product, rows[0] @ rows[1]
    return _Moments(*(float(value) for value in sums))


def _of_block(kind: str, block: Block, x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = (t[block.first : block.last] for t in (x, y))
    if kind == "crs":
        return _strata(x.new_ones(block.n), block.k, x, y)
    energy, product, own = _moments(x, y)
    both = energy + product
    if kind == "gaussian":
        return both / block.k
    if kind == "rademacher":
        return (both - 2 * own) / block.k
    # Rows of an orthonormal matrix, none twice: what is left to chance is what is not drawn.
    size = 1 << (block.n - 1).bit_length() if kind == "hadamard" else block.n
    fourth = 2.0 if kind == "hadamard" else 1.5  # a cosine's fourth moment
    return (size - block.k) / max(size - 1, 1) * (both - fourth * own) / block.k


def _strata(weights: torch.Tensor, k: int, x: torch.Tensor, y: torch.Tensor) -> float:
    """Of one row from each of k strata of equal weight: what lies between strata does not vary."""
    share = weights.double() * (k / weights.sum(dtype=torch.float64))  # of a row, in strata
    ends = share.cumsum(0)
    starts, x, y = ends - share, x.double(), y.double()
    z = torch.where(share > 0, 1 / share, 0)[:, None] * y  # what is of no weight is never drawn
    found = x.square().sum(1) @ (y * z).sum(1)
    for strata in torch.arange(k).tensor_split(max(1, min(k, len(x) // BLOCK))):
        t = strata.to(ends)[:, None]
        first = torch.searchsorted(ends, t[0], right=True)
        own = slice(int(first), int(torch.searchsorted(starts, t[-1] + 1)))
        drawn = ((t + 1).minimum(ends[own]) - t.maximum(starts[own])).clamp_(min=0)
        alike = (x[own] @ x[own].mT) * (z[own] @ z[own].mT)
        found -= ((drawn @ alike) * drawn).sum()
    return float(found)


class VarianceEstimator:
    """A hook: tells `callback(variance, step)` of every backward through a linear layer.

    It keeps the layer's input from forward to backward, as a plain layer does.

    Args:
        module: a RandomizedLinear, any module from [..., in] to [..., out] that is one product, or
            a convolution of single points.
        callback: takes a Variance and the count of backwards before.
        projection: what to estimate for; default: the module's own.

    Raises:
        ValueError: for an impossible projection, or a module that has none.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        callback: Callable[[Variance, int], None],
        projection: Projection | None = None,
    ) -> None:
        own = getattr(module, "projection", None)
        if projection is None and own is None:
            raise ValueError(f"{type(module).__name__} keeps no sketch: say for which projection")
        self.projection, self.callback, self.step = projection or own, callback, 0
        check(self.projection)
        self._hook = module.register_forward_hook(self._forward, with_kwargs=True)

    def remove(self) -> None:
        """Estimate no more."""
        self._hook.remove()

    def _forward(
        self,
        module: torch.nn.Module,
        args: tuple[torch.Tensor, ...],
        kwargs: dict[str, torch.Tensor],
        output: torch.Tensor,
    ) -> None:
        # A convolution has its channels before what its kernel spans.
        channels = -1 - len(getattr(module, "kernel_size", ()))
        x = next(iter((*args, *kwargs.values()))).detach().movedim(channels, -1)
        if output.requires_grad:
            output.register_hook(lambda grad: self._backward(x, grad.movedim(channels, -1)))

    def _backward(self, x: torch.Tensor, grad: torch.Tensor) -> None:
        self.callback(variance(x, grad, self.projection), self.step)
        self.step += 1
