"""Batch norm in fixed point, which keeps 16 bits an element."""

from __future__ import annotations

import torch
from torch import nn

from fxmem.ops.eager import returned
from fxmem.ops.integer import storage
from fxmem.ops.layout import memory_stride
from fxmem.quantizers import quantize_gradient
from fxmem.quantizers.wageubn import AllDirect, Direct, Shift

from .layers import Quantized, check_precision

WEIGHT = AllDirect(8, 16)  # of weight and bias: 8 bits of fraction, and room for more than 1
DIMS = (0, 2, 3)
NORMALIZED = AllDirect(13, 16)  # of xhat: a range of ±8 in steps of 2^-12


class BatchNorm2d(Quantized, nn.BatchNorm2d):
    """nn.BatchNorm2d in fixed point: statistics, normalised input, weight, bias and errors.

    The mean and the deviation have their grids, the deviation one step more so that it is not 0.
    What the normalisation keeps is 16 bits an element. In evaluation the running statistics are
    put on the same grids. The error that it passes back is `Shift(error_bit_width)`'s.
    """

    def __init__(
        self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
        config=None, **widths,
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self._configure(config, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)
        check_precision(self, x)
        batch = self.training or self.running_mean is None
        if batch and x.numel() == x.size(1):
            raise ValueError(
                f"{type(self).__name__} takes its statistics of more than one value a channel; got "
                f"an input of {list(x.shape)}"
            )
        mean, variance = _statistics(x) if batch else (self.running_mean, self.running_var)
        if batch and self.running_mean is not None:
            self._follow(mean, variance, x.numel() // x.size(1))
        mean = self.config.grid("mean").value(mean)
        grid = self.config.grid("var")
        deviation = grid.value(variance.sqrt()) + 2.0 ** (1 - grid.fraction)
        # The first of WAGEUBN's two errors: of the range of a power of two.
        x = quantize_gradient(x, Shift(self.config.error_bit_width))
        given = (self._parameter(name) for name in ("weight", "bias"))
        y = _Normalize.apply(x, mean, deviation, *given, batch)
        return self.config.grid("output").quantize(y) if self.config.iostrict else y

    def _parameter(self, name: str) -> torch.Tensor | None:
        if not self.affine:
            return None
        gradient = Direct(self.config.batch_norm_gradient_bit_width)
        return WEIGHT(quantize_gradient(getattr(self, name), gradient))

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        share = self.momentum
        share = 1 / float(self.num_batches_tracked) if share is None else share
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    variance, mean = torch.var_mean(x.detach(), DIMS, correction=0)
    return mean, variance


class _Normalize(torch.autograd.Function):
    """xhat weight + bias, xhat = (x - mean) / deviation on `NORMALIZED`'s grid, straight through.

    Of all this the codes of the normalised input alone are kept, for all three gradients.
    """

    @staticmethod
    def forward(ctx, x, mean, deviation, weight, bias, batch):
        codes, scale = NORMALIZED.encode((x - _channels(mean)) / _channels(deviation))
        ctx.layout, ctx.batch = (tuple(codes.shape), memory_stride(codes)), batch
        ctx.save_for_backward(storage.store(codes, NORMALIZED.bits, True), scale, deviation, weight)
        y = codes.mul_(scale)
        y = y if weight is None else y.mul_(_channels(weight)).add_(_channels(bias))
        return returned(y, x.dtype)

    @staticmethod
    def backward(ctx, grad):
        kept, scale, deviation, weight = ctx.saved_tensors
        normalized = storage.load(kept, NORMALIZED.bits, True, *ctx.layout) * scale
        of_bias = grad.sum(DIMS)
        of_weight = (grad * normalized).sum(DIMS)
        inverse = deviation.reciprocal() if weight is None else weight / deviation
        centred = grad
        if ctx.batch:
            count = grad.numel() // grad.size(1)
            centred = grad - _channels(of_bias / count)
            centred -= normalized.mul_(_channels(of_weight / count))
        pair = (None, None) if weight is None else (of_weight, of_bias)
        return centred * _channels(inverse), None, None, *pair, None


def _channels(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, -1, 1, 1)
