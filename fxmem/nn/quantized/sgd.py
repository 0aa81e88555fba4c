"""Stochastic gradient descent whose gradients, momentum and weights stay on their grids."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fxmem.quantizers import wageubn

from .config import QuantConfig


class SGD(torch.optim.Optimizer):
    """WAGEUBN's update of all parameters of integer networks.

    A weight's gradient (two dimensions and more) is `Constant`'s: of constant range, so that the
    learning rate alone sets the step; other parameters' is `Direct`'s. The momentum buffer is
    Q(m b + g, 13), stored as int16; the learning rate is put on its own grid; the stored parameter
    is Q(p - lr b, 24), and a weight's stays within ±(1 - 2^-23). The constant range belongs to the
    published learning rates: 0.05, and g_scale (`gradient_range_bit_width`) lowered in its place.

    Raises ValueError for a learning rate that its grid rounds to 0 or that is not finite, for a
    momentum out of [0, 1) and a weight decay below 0; TypeError for what is no QuantConfig.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.05,
        momentum: float = 0.25,
        weight_decay: float = 0.0,
        config: QuantConfig | None = None,
        generator: torch.Generator | None = None,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {momentum!r}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {weight_decay!r}")
        if not isinstance(config, QuantConfig | None):
            raise TypeError(f"config must be a QuantConfig; got {config!r}")
        self.config, self.generator = config or QuantConfig(), generator
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            self._rate(group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; torch would make the codes of its momentum floats."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "momentum_codes" in state:
                state["momentum_codes"] = state["momentum_codes"].to(torch.int16)

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate = self._rate(group["lr"])
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, rate, group["momentum"], group["weight_decay"])
        return loss

    def _rate(self, lr: float) -> float:
        rounded = float(self._direct("learning_rate").value(torch.tensor(float(lr))))
        if not 0 < rounded < math.inf:
            step = 2.0 ** (1 - self.config.learning_rate_bit_width)
            raise ValueError(f"lr must be at least half a step of {step}, and finite; got {lr!r}")
        return rounded

    def _direct(self, what: str) -> wageubn.Direct:
        return wageubn.Direct(getattr(self.config, f"{what}_bit_width"))

    def _update(self, p: nn.Parameter, rate: float, momentum: float, decay: float) -> None:
        grad = self._gradient(p, p.grad.add(p, alpha=decay) if decay else p.grad)
        grid = wageubn.AllDirect(self.config.momentum_bit_width, 16)
        state = self.state[p]
        if "momentum_codes" in state:
            grad = grad + momentum * state["momentum_codes"] * 2.0 ** (1 - grid.fraction)
        codes, scale = grid.encode(grad)
        state["momentum_codes"] = codes.to(torch.int16)
        stored = self._direct("update").value(p - rate * (codes * scale))
        top = 1 - 2.0 ** (1 - self.config.update_bit_width)
        p.copy_(stored.clamp_(-top, top) if p.dim() > 1 else stored)

    def _gradient(self, p: nn.Parameter, grad: torch.Tensor) -> torch.Tensor:
        config = self.config
        if p.dim() <= 1:
            return self._direct("batch_norm_gradient").value(grad)
        widths = config.gradient_range_bit_width, config.gradient_bit_width
        return wageubn.Constant(*widths).value(grad, self.generator)
