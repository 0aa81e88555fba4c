"""Two convolutional networks that concatenate, as papers draw them; transformers has neither."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional


class DenseNet(nn.Module):
    """Three dense blocks of six layers of growth 16 (Huang et al. 2017, equation 2), 10 classes."""

    def __init__(self, layers: int = 6, growth: int = 16) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for _ in range(3):
            block = [self._layer(width + i * growth, growth) for i in range(layers)]
            self.blocks.append(nn.ModuleList(block))
            width += layers * growth
            self.transitions.append(nn.Conv2d(width, width // 2, 1))
            width //= 2
        self.head = nn.Linear(width, 10)

    @staticmethod
    def _layer(width: int, growth: int) -> nn.Sequential:
        product = nn.Conv2d(width, growth, 3, padding=1, bias=False)
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), product)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        """Return the loss of a classification."""
        x = self.stem(pixel_values)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            made = [x]
            for layer in block:
                made.append(layer(torch.cat(made, 1)))
            x = functional.avg_pool2d(transition(torch.cat(made, 1)), 2)
        logits = self.head(x.mean((2, 3)))
        return SimpleNamespace(loss=functional.cross_entropy(logits, labels))


class UNet(nn.Module):
    """Three levels down and up (Ronneberger et al. 2015), group norm and SiLU, one output map."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(map(self._level, [3, *widths[:-1]], widths))
        self.bottom = self._level(widths[-1], 2 * widths[-1])
        below = [*widths[1:], 2 * widths[-1]]
        self.up = nn.ModuleList(self._level(b + w, w) for b, w in zip(below, widths, strict=True))
        self.head = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _level(width: int, wider: int) -> nn.Sequential:
        def half(width: int) -> tuple[nn.Module, ...]:
            return nn.Conv2d(width, wider, 3, padding=1), nn.GroupNorm(8, wider), nn.SiLU()

        return nn.Sequential(*half(width), *half(wider))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        """Return the loss of a map that is each picture's label everywhere."""
        x, sides = pixel_values, []
        for level in self.down:
            sides.append(level(x))
            x = functional.max_pool2d(sides[-1], 2)
        x = self.bottom(x)
        for level, side in zip(reversed(self.up), reversed(sides), strict=True):
            x = level(torch.cat([side, functional.interpolate(x, scale_factor=2)], 1))
        target = labels[:, None, None, None].to(x.dtype)
        return SimpleNamespace(loss=(self.head(x) - target).square().mean())
