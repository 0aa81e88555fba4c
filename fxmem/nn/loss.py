"""The loss of a vocabulary as a module: the last linear layer is part of it."""

from __future__ import annotations

import torch

from fxmem.ops import linear_cross_entropy


class LinearCrossEntropy(torch.nn.Linear):
    """`CrossEntropyLoss(Linear(hidden), target)` that never holds all the logits.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear has them; out_features
            are the classes. For tied embeddings: `loss.weight = embedding.weight`.
        class_weight: [out_features], a buffer; the rest as in
            fxmem.functional.linear_cross_entropy, which says what is raised too.
    """

    class_weight: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        class_weight: torch.Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        recompute: bool | None = None,
        chunk: int = 0,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.reduction, self.ignore_index = reduction, ignore_index
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.recompute, self.chunk = recompute, chunk

    def forward(self, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of labels [...] for `hidden` [..., in_features]."""
        options = {
            name: getattr(self, name)
            for name in (
                *("class_weight", "reduction", "ignore_index", "label_smoothing", "z_loss"),
                *("recompute", "chunk"),
            )
        }
        return linear_cross_entropy(hidden, self.weight, target, self.bias, **options)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits themselves, to predict with."""
        return super().forward(hidden)

    def extra_repr(self) -> str:
        """Torch's, then how the loss is reduced."""
        return f"{super().extra_repr()}, reduction={self.reduction!r}"
