"""The gradient of an input through its quantizer's mask, a bit an element."""

import torch

PASSES = (0.0, 1.0)  # what the gradient is multiplied by, by the bit


def masked(grad: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A gradient times 1 where its bit is set, else times 0; of grad's shape, contiguous.

    `mask` is what `fxmem.ops.pack` made of the contiguous input's bits.
    """
    grad = grad.contiguous()
    return torch.ops.fxmem.few_bit_backward(grad, mask, PASSES, 1, grad.stride())
