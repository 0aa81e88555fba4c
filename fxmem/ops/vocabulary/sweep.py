"""Cross-entropy of a linear layer, some rows at a time: the logits of the others never exist.

Rows are swept in chunks, which are as many as matrix products like; each chunk's softmax is taken
in parts, which are as many as a cache holds. A chunk's logits are overwritten by their gradient.
"""

from typing import NamedTuple

import torch

# The least of a chunk that leaves matrix products on a CPU as fast as on all rows at once.
ROWS = 256
# Of scratch memory: for a part's softmax in fp32, and for the product that is added to the gradient
# of a half-precision weight, summed in fp32. A CPU core's cache; on a GPU, what keeps it busy.
PART_BYTES = {"cpu": 2**20, "cuda": 2**26}


class Terms(NamedTuple):
    """What a row's loss is made of: nll * -log p[target] - smooth * Σ w log p + square * lse².

    Args:
        target: [n] int64; below 0 the first two terms are left out.
        nll, smooth, square: [n], in the dtype of the softmax, or None for a term that is not there.
        class_weight: [v], w above; None for ones.
    """

    target: torch.Tensor
    nll: torch.Tensor
    smooth: torch.Tensor | None
    square: torch.Tensor | None
    class_weight: torch.Tensor | None

    def rows(self, part: slice) -> "Terms":
        """The same of some rows."""
        own = (None if term is None else term[part] for term in self[:4])
        return Terms(*own, self.class_weight)


class Swept(NamedTuple):
    """The loss of each row, and the gradients of their sum; empty where they were not wanted."""

    losses: torch.Tensor
    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which softmax and sums are taken."""
    return dtype if dtype == torch.float64 else torch.float32


def outputs(hidden, weight, bias, wants) -> Swept:
    """Make room for the results."""
    dtype = softmax_dtype(hidden.dtype)
    v, d = weight.shape
    wants_hidden, wants_weight, wants_bias = wants
    return Swept(
        hidden.new_empty([hidden.shape[0]], dtype=dtype),
        hidden.new_empty(hidden.shape if wants_hidden else [0]),
        hidden.new_empty([v, d] if wants_weight else [0], dtype=dtype),
        hidden.new_zeros([v] if wants_bias else [0], dtype=dtype),
    )


def sweep(hidden, weight, bias, terms: Terms, wants, chunk: int = 0) -> Swept:
    """Return the loss of each row of `hidden` and, where wanted, the gradients of all together.

    hidden is [n, d], weight [v, d], bias [v] or None, all of one dtype; `wants` says for the three
    of them whether their gradient is computed; `chunk` is a number of rows, 0 for a good one.
    """
    out = outputs(hidden, weight, bias, wants)
    if not hidden.shape[0]:
        out.weight.zero_()
    _fill(out, hidden, weight, bias, terms, wants, chunk or chunk_of(hidden.shape[0]))
    return Swept(out.losses, out.hidden, out.weight.to(weight.dtype), out.bias.to(weight.dtype))


def _fill(out: Swept, hidden, weight, bias, terms: Terms, wants, chunk: int) -> None:
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
        softmax(logits, terms.rows(rows), out.losses[rows], any(wants))
        _gradients(logits, hidden[rows], weight, out, rows, wants)


def chunk_of(n: int) -> int:
    """Return how many of n rows to take at once: less than an eighth, and a round number."""
    rows = max(n // 16, min(ROWS, n // 9), 1)
    return rows - rows % 32 if rows > 32 else rows


class _Softmax:
    """Takes the loss and its gradient by the logits, a few rows at a time, in scratch memory."""

    def __init__(self, hidden: torch.Tensor, v: int, chunk: int) -> None:
        device, dtype = hidden.device.type, softmax_dtype(hidden.dtype)
        room = PART_BYTES.get(device, 2**26) * (torch.get_num_threads() if device == "cpu" else 1)
        # An eighth of a chunk at most: a ninth of all rows and that make an eighth of the logits.
        self.rows = max(min(room // (dtype.itemsize * v), chunk // 8), 1)
        self.p = hidden.new_empty([self.rows, v], dtype=dtype)
        self.x = None if dtype == hidden.dtype else torch.empty_like(self.p)

    def __call__(
        self, logits: torch.Tensor, terms: Terms, losses: torch.Tensor, differentiate: bool
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
            losses[part] = _loss(x, lse, own)
            if differentiate:
                logits[part] = _slope(p, lse, own)


def _loss(x: torch.Tensor, lse: torch.Tensor, terms: Terms) -> torch.Tensor:
    target = terms.target.clamp(min=0)
    loss = terms.nll * (lse - x.gather(1, target[:, None])[:, 0])
    if terms.smooth is not None:
        w = terms.class_weight
        total = x.shape[1] if w is None else w.sum()
        loss = loss + terms.smooth * (lse * total - (x.sum(1) if w is None else x @ w))
    loss = torch.where(terms.target < 0, 0, loss)
    return loss if terms.square is None else loss + terms.square * lse**2


def _slope(p: torch.Tensor, lse: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Turn a softmax into the gradient of the loss by the logits: in place, as it is nobody's."""
    w, of_p = terms.class_weight, terms.nll
    if terms.smooth is not None:
        of_p = of_p + terms.smooth * (p.shape[1] if w is None else w.sum())
    if terms.square is not None:
        of_p = of_p + 2 * terms.square * lse
    p.mul_(of_p[:, None])
    if terms.smooth is not None:
        p.sub_(terms.smooth[:, None] if w is None else terms.smooth[:, None] * w)
    return p.scatter_add_(1, terms.target.clamp(min=0)[:, None], -terms.nll[:, None])


def _gradients(slope, hidden, weight, out: Swept, rows: slice, wants) -> None:
    """Write the gradients that a chunk gives; the weight's sum begins with the first of them."""
    wants_hidden, wants_weight, wants_bias = wants
    beta = int(rows.start > 0)
    if wants_hidden:
        torch.mm(slope, weight, out=out.hidden[rows])
    if wants_weight and out.weight.dtype == hidden.dtype:
        out.weight.addmm_(slope.t(), hidden, beta=beta)
    elif wants_weight:
        _add_product(out.weight, slope, hidden, beta)
    if wants_bias:
        out.bias.add_(slope.sum(0, dtype=out.bias.dtype))


def _add_product(total, slope, hidden, beta: int) -> None:
    """Make total beta * total + slopeᵀ hidden, in blocks, so that no second one is held.

    Products like larger blocks than sums do, which convert theirs to fp32 first.
    """
    step = max(PART_BYTES.get(total.device.type, 2**26) // (4 * hidden.shape[1]), 1)
    for start in range(0, total.shape[0], 8 * step):
        block = slice(start, start + 8 * step)
        product = slope[:, block].t() @ hidden
        for sums, parts in zip(total[block].split(step), product.split(step), strict=True):
            if beta:
                sums.add_(parts)
            else:
                sums.copy_(parts)
