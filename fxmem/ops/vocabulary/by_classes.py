"""The gradient of a half-precision weight, some classes at a time: each is one product of all rows.

Summed over chunks of rows it would need a second, fp32 gradient of the whole weight to be summed
in, which is as large as the logits of twice as many rows as the layer is wide.
"""

import torch

from .terms import Terms, slope

# Of their logits, and of a copy that a product of bf16 makes, together no more than of a chunk.
PARTS = 32
# With more rows than this for each unit of width, fp32 sums are small beside the logits.
ROWS_PER_WIDTH = 64


def pays(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether fp32 sums of a weight's gradient would be large beside the logits."""
    halves = hidden.dtype in (torch.bfloat16, torch.float16)
    return halves and hidden.shape[0] < ROWS_PER_WIDTH * weight.shape[1]


def weight_gradient(
    out: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    terms: Terms,
    lse: torch.Tensor,
    rows: int,
) -> None:
    """Write the gradient of the weight: of each block of classes the logits are computed again.

    Args:
        lse: [n] fp32, of the whole rows of logits.
        rows: of so many the softmax is in fp32 at once, were they of all classes.
    """
    n, v = hidden.shape[0], weight.shape[0]
    width = min(max(-(-v // PARTS), 1), v)
    memory = hidden.new_empty(n * width)
    scratch = hidden.new_empty(max(rows * v // width, 1) * width, dtype=torch.float32)
    for first in range(0, v, width):
        part = weight[first : first + width]
        logits = memory[: n * len(part)].view(n, len(part))
        if bias is None:
            torch.mm(hidden, part.t(), out=logits)
        else:
            torch.addmm(bias[first : first + width], hidden, part.t(), out=logits)
        _differentiate(logits, lse, terms, scratch, first, v)
        torch.mm(logits.t(), hidden, out=out[first : first + width])


def _differentiate(
    logits: torch.Tensor,
    lse: torch.Tensor,
    terms: Terms,
    scratch: torch.Tensor,
    first: int,
    classes: int,
) -> None:
    """Put the gradient in place of logits, some rows at a time."""
    width = logits.shape[1]
    step = max(scratch.numel() // width, 1)
    for start in range(0, logits.shape[0], step):
        rows = slice(start, start + step)
        x = logits[rows]
        p = scratch[: x.numel()].view_as(x).copy_(x)
        p.sub_(lse[rows, None]).exp_()
        logits[rows] = slope(p, lse[rows], terms.rows(rows), first, classes)
