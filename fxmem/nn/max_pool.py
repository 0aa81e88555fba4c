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
