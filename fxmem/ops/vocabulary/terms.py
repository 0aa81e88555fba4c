"""What a row's loss is made of, and its gradient by the logits."""

from typing import NamedTuple

import torch


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


def loss(x: torch.Tensor, lse: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Return the loss of rows of logits whose log-sum-exp is known."""
    target = terms.target.clamp(min=0)
    found = terms.nll * (lse - x.gather(1, target[:, None])[:, 0])
    if terms.smooth is not None:
        w = terms.class_weight
        total = x.shape[1] if w is None else w.sum()
        found = found + terms.smooth * (lse * total - (x.sum(1) if w is None else x @ w))
    found = torch.where(terms.target < 0, 0, found)
    return found if terms.square is None else found + terms.square * lse**2


def slope(
    p: torch.Tensor, lse: torch.Tensor, terms: Terms, first: int, classes: int
) -> torch.Tensor:
    """Turn a softmax into the gradient of the loss by the logits: in place, as it is nobody's.

    Args:
        p: of the classes from `first` on, of `classes` in all.
    """
    w, of_p = terms.class_weight, terms.nll
    if terms.smooth is not None:
        of_p = of_p + terms.smooth * (classes if w is None else w.sum())
    if terms.square is not None:
        of_p = of_p + 2 * terms.square * lse
    p.mul_(of_p[:, None])
    if terms.smooth is not None:
        own = None if w is None else w[first : first + p.shape[1]]
        p.sub_(terms.smooth[:, None] if own is None else terms.smooth[:, None] * own)
    at = terms.target.clamp(min=0) - first
    here = torch.where((at >= 0) & (at < p.shape[1]), -terms.nll, 0)
    return p.scatter_add_(1, at.clamp(0, p.shape[1] - 1)[:, None], here[:, None])
