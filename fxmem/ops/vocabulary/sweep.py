"""Cross-entropy of a linear layer, some rows at a time: the logits of the others never exist.

Rows are swept in chunks, which are as many as matrix products like; each chunk's softmax is taken
in parts, which are as many as a cache holds. A chunk's logits are overwritten by their gradient.
"""

from typing import NamedTuple

import torch

from .by_classes import pays, weight_gradient
from .terms import Terms, loss, slope

# The least of a chunk that leaves matrix products on a CPU as fast as on all rows at once.
ROWS = 256
# Of scratch memory: for a part's softmax in fp32, and for the product that is added to the gradient
# of a half-precision weight, summed in fp32. A CPU core's cache; on a GPU, what keeps it busy.
PART_BYTES = {"cpu": 2**20, "cuda": 2**26}


class Swept(NamedTuple):
    """The loss of each row, and the gradients of their sum; empty where they were not wanted."""

    losses: torch.Tensor
    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which softmax and sums are taken."""
    return dtype if dtype == torch.float64 else torch.float32


def outputs(hidden, weight, bias, wants, summed: torch.dtype | None = None) -> Swept:
    """Make room for the results; `summed` is the dtype of the weight's gradient."""
    dtype = softmax_dtype(hidden.dtype)
    v, d = weight.shape
    wants_hidden, wants_weight, wants_bias = wants
    return Swept(
        hidden.new_empty([hidden.shape[0]], dtype=dtype),
        hidden.new_empty(hidden.shape if wants_hidden else [0]),
        hidden.new_empty([v, d] if wants_weight else [0], dtype=summed or dtype),
        hidden.new_zeros([v] if wants_bias else [0], dtype=dtype),
    )


def sweep(hidden, weight, bias, terms: Terms, wants, chunk: int = 0, least=False) -> Swept:
    """Return the loss of each row of `hidden` and, where wanted, the gradients of all together.

    hidden is [n, d], weight [v, d], bias [v] or None, all of one dtype; `wants` says for the three
    of them whether their gradient is computed; `chunk` is a number of rows, 0 for a good one.
    With `least` a fourth product is paid where fp32 sums of the weight's gradient would be large.
    """
    by_classes = least and wants[1] and pays(hidden, weight)
    out = outputs(hidden, weight, bias, wants, hidden.dtype if by_classes else None)
    if not hidden.shape[0]:
        out.weight.zero_()
    # A twelfth where products of bf16 copy what they read.
    chunk = chunk or chunk_of(hidden.shape[0], 12 if by_classes else 9)
    if by_classes:
        lse = out.losses.new_empty(out.losses.shape)
        rows = _fill(out, hidden, weight, bias, terms, (wants[0], False, wants[2]), chunk, lse)
        weight_gradient(out.weight, hidden, weight, bias, terms, lse, rows)
    else:
        _fill(out, hidden, weight, bias, terms, wants, chunk)
    return Swept(out.losses, out.hidden, out.weight.to(weight.dtype), out.bias.to(weight.dtype))


def _fill(out: Swept, hidden, weight, bias, terms: Terms, wants, chunk: int, lse=None) -> int:
    """Fill the results, and `lse`; return of how many rows the softmax has been taken at once."""
    n, v = hidden.shape[0], weight.shape[0]
    # One block of memory for all: what is new in every turn costs more time than computing it.
    buffer = hidden.new_empty([min(chunk, n), v])
    softmax = _Softmax(hidden, v, chunk)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        logits = buffer[: min(chunk, n - start)]
        if bias is None:
            torch.mm(hidden[rows], weight.t(), out=logits)
        else:
            torch.addmm(bias, hidden[rows], weight.t(), out=logits)
        sums = None if lse is None else lse[rows]
        softmax(logits, terms.rows(rows), out.losses[rows], any(wants), sums)
        _gradients(logits, hidden[rows], weight, out, rows, wants)
    return softmax.rows


def chunk_of(n: int, parts: int = 9) -> int:
    """Return how many of n rows to take at once: less than an eighth, and a round number."""
    rows = max(n // 16, min(ROWS, n // parts), 1)
    return rows - rows % 32 if rows > 32 else rows


class _Softmax:
    """Takes the loss and its gradient by the logits, a few rows at a time, in scratch memory."""

    def __init__(self, hidden: torch.Tensor, v: int, chunk: int) -> None:
        device, dtype = hidden.device.type, softmax_dtype(hidden.dtype)
        room = PART_BYTES.get(device, 2**26) * (torch.get_num_threads() if device == "cpu" else 1)
        # An eighth of a chunk at most: a ninth of all rows and that make an eighth of the logits.
        share = 8 if dtype == hidden.dtype else 32  # two rooms then, of twice the bytes
        self.rows = max(min(room // (dtype.itemsize * v), chunk // share), 1)
        self.p = hidden.new_empty([self.rows, v], dtype=dtype)
        self.x = None if dtype == hidden.dtype else torch.empty_like(self.p)

    def __call__(
        self,
        logits: torch.Tensor,
        terms: Terms,
        losses: torch.Tensor,
        differentiate: bool,
        sums: torch.Tensor | None,
    ) -> None:
        """Write the loss of each row; put its gradient in place of the logits."""
        for start in range(0, logits.shape[0], self.rows):
            part = slice(start, start + self.rows)
            own, x = terms.rows(part), logits[part]
            p = self.p[: x.shape[0]]
            x = x if self.x is None else self.x[: x.shape[0]].copy_(x)
            torch.softmax(x, 1, out=p)
            # The greatest of p is at least 1 / v: its logarithm is as good as the sum's.
            lse = x.amax(1) - p.amax(1).log()
            losses[part] = loss(x, lse, own)
            if sums is not None:
                sums[part] = lse
            if differentiate:
                logits[part] = slope(p, lse, own, 0, p.shape[1])


def _gradients(slopes, hidden, weight, out: Swept, rows: slice, wants) -> None:
    """Write the gradients that a chunk gives; the weight's sum begins with the first of them."""
    wants_hidden, wants_weight, wants_bias = wants
    beta = int(rows.start > 0)
    if wants_hidden:
        torch.mm(slopes, weight, out=out.hidden[rows])
    if wants_weight and out.weight.dtype == hidden.dtype:
        out.weight.addmm_(slopes.t(), hidden, beta=beta)
    elif wants_weight:
        _add_product(out.weight, slopes, hidden, beta)
    if wants_bias:
        out.bias.add_(slopes.sum(0, dtype=out.bias.dtype))


def _add_product(total, slopes, hidden, beta: int) -> None:
    """Make total beta * total + slopeᵀ hidden, in blocks, so that no second one is held.

    Products like larger blocks than sums do, which convert theirs to fp32 first.
    """
    step = max(PART_BYTES.get(total.device.type, 2**26) // (4 * hidden.shape[1]), 1)
    for start in range(0, total.shape[0], 8 * step):
        block = slice(start, start + 8 * step)
        product = slopes[:, block].t() @ hidden
        for sums, parts in zip(total[block].split(step), product.split(step), strict=True):
            if beta:
                sums.add_(parts)
            else:
                sums.copy_(parts)
