"""Max pooling as modules: torch's own, keeping places in windows."""

from __future__ import annotations

import torch

from fxmem import functional


class _Pooled:
    """A mixin before torch's module: its function is called with the module's settings."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Take the maximum of each window."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return type(self).function(input, *window, self.ceil_mode, self.return_indices)


class MaxPool1d(_Pooled, torch.nn.MaxPool1d):
    """torch.nn.MaxPool1d as fxmem.functional.max_pool1d."""

    function = staticmethod(functional.max_pool1d)


class MaxPool2d(_Pooled, torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d as fxmem.functional.max_pool2d."""

    function = staticmethod(functional.max_pool2d)


class MaxPool3d(_Pooled, torch.nn.MaxPool3d):
    """torch.nn.MaxPool3d as fxmem.functional.max_pool3d."""

    function = staticmethod(functional.max_pool3d)


class _Adaptive:
    """A mixin before torch's module, for inputs whose sizes are multiples of the output's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Take the maximum of each window; where windows differ in size, as torch does."""
        window = None if self.return_indices else self._window(input)
        if window is None:
            return super().forward(input)
        return type(self).function(input, window)

    def _window(self, input: torch.Tensor) -> tuple[int, ...] | None:
        """Return the size of all windows, None where they differ."""
        given = self.output_size
        asked = given if isinstance(given, (tuple, list)) else [given] * self.dims
        sizes = input.shape[-self.dims :]
        pairs = [(n, n if m is None else m) for n, m in zip(sizes, asked, strict=True)]
        if input.dim() <= self.dims or any(m == 0 or n == 0 or n % m for n, m in pairs):
            return None
        return tuple(n // m for n, m in pairs)


class AdaptiveMaxPool1d(_Adaptive, torch.nn.AdaptiveMaxPool1d):
    """torch.nn.AdaptiveMaxPool1d as fxmem.functional.max_pool1d."""

    dims, function = 1, staticmethod(functional.max_pool1d)


class AdaptiveMaxPool2d(_Adaptive, torch.nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d as fxmem.functional.max_pool2d."""

    dims, function = 2, staticmethod(functional.max_pool2d)


class AdaptiveMaxPool3d(_Adaptive, torch.nn.AdaptiveMaxPool3d):
    """torch.nn.AdaptiveMaxPool3d as fxmem.functional.max_pool3d."""

    dims, function = 3, staticmethod(functional.max_pool3d)
