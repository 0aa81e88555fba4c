"""`cross_entropy(linear(hidden, weight, bias), target)` that never holds more than some logits.

Where one number is returned, its gradients are computed with it, while a chunk's logits are there:
as many products as without chunks, and of the logits nothing is kept. They wait, as large as
hidden and weight, for the one number of the backward that scales them. Where a loss a row is
returned, or the gradient could not bear to be scaled later, the backward computes the logits again.
"""

import torch

from ..autocast import autocast_dtype, without_autocast
from ..eager import is_traced, refuse_transforms
from ..native import Derivative, compose, composite, underivable
from ..second import SECOND, never, once
from . import checks
from .sweep import outputs, softmax_dtype, sweep
from .terms import Terms

_fxmem = torch.ops.fxmem
TERMS = "Tensor target, Tensor nll, Tensor? smooth, Tensor? square, Tensor? class_weight"
LAYER = "Tensor hidden, Tensor weight, Tensor? bias"


def _sum(hidden, weight, bias, *rest):
    *terms, wants, chunk = rest
    checks.labels(terms[0], weight)
    losses, *gradients = sweep(hidden, weight, bias, Terms(*terms), wants, chunk)
    return losses.sum(), *gradients


def _sum_fake(hidden, weight, bias, *rest):
    losses, *gradients = outputs(hidden, weight, bias, rest[-2])
    return losses.sum(), *(gradient.to(hidden.dtype) for gradient in gradients)


def _sum_setup(ctx, inputs, output):
    ctx.wants = inputs[-2]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _sum_derive(ctx, grad, *_):
    scaled = [None] * 10
    for i, gradient in enumerate(ctx.saved_tensors):
        if ctx.wants[i] and grad is not None:
            scaled[i] = _scale(gradient, grad)
    return tuple(scaled)


def _scale(gradient: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    never("fxmem::linear_cross_entropy", grad)
    if type(grad) is torch.Tensor and not is_traced() and not _is_retained():
        return gradient.mul_(grad)  # nobody will read it again: no second one is made
    return (gradient * grad).to(gradient.dtype)


def _is_retained() -> bool:
    """Whether the graph that a backward runs through will be run through again."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _rows(hidden, weight, bias, *rest):
    *terms, chunk = rest
    checks.labels(terms[0], weight)
    return sweep(hidden, weight, bias, Terms(*terms), (False, False, False), chunk).losses


def _rows_fake(hidden, weight, bias, *rest):
    return outputs(hidden, weight, bias, (False, False, False)).losses


def _rows_setup(ctx, inputs, output):
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors)


def _rows_derive(ctx, grad):
    tensors, wants = ctx.saved_tensors, ctx.needs_input_grad[:3]
    wants = [wanted and given is not None for wanted, given in zip(wants, tensors, strict=False)]
    found = _fxmem.linear_cross_entropy_gradients(once(grad), *tensors, wants, ctx.chunk)
    given = (g if wanted else None for g, wanted in zip(found, wants, strict=True))
    return *given, *(None,) * 6


def _gradients(grad, hidden, weight, bias, *rest):
    *terms, wants, chunk = rest
    target, *coefficients, class_weight = terms
    scaled = (None if row is None else row * grad for row in coefficients)
    terms = Terms(target, *scaled, class_weight)
    return tuple(sweep(hidden, weight, bias, terms, wants, chunk, least=True)[1:])


def _gradients_fake(grad, *arguments):
    return tuple(_sum_fake(*arguments)[1:])


_total = compose(
    "linear_cross_entropy_sum",
    f"({LAYER}, {TERMS}, bool[] wants, int chunk) -> "
    "(Tensor loss, Tensor hidden_grad, Tensor weight_grad, Tensor bias_grad)",
    kernel=_sum,
    fake=_sum_fake,
    derivative=Derivative(_sum_derive, _sum_setup),
)
_each = compose(
    "linear_cross_entropy_rows",
    f"({LAYER}, {TERMS}, int chunk) -> Tensor",
    kernel=_rows,
    fake=_rows_fake,
    derivative=Derivative(_rows_derive, _rows_setup),
)
compose(
    "linear_cross_entropy_gradients",
    f"(Tensor grad, {LAYER}, {TERMS}, bool[] wants, int chunk) -> "
    "(Tensor hidden_grad, Tensor weight_grad, Tensor bias_grad)",
    kernel=_gradients,
    fake=_gradients_fake,
    derivative=underivable("linear_cross_entropy_gradients", SECOND),
)


def _terms(
    target, dtype, class_weight, reduction, ignore_index, label_smoothing, z_loss, z_rows, v
):
    """Return what each row counts, and what is to be added to the loss: NaN for a mean of none."""
    valid = target != ignore_index
    weight = None if class_weight is None else class_weight.detach().to(dtype)
    row = valid.to(dtype)
    if weight is not None:
        row = row * weight[torch.where(valid, target, 0).clamp(0, v - 1)]
    total = row.sum() if reduction == "mean" else torch.ones_like(row.sum())
    # A label below 0 that is not ignored must not pass for one that is.
    label = torch.where(valid, torch.where(target < 0, v, target), -1)
    each = torch.where(valid, row / total, 0)
    smooth = torch.where(valid, label_smoothing / v / total, 0) if label_smoothing else None
    square = z_loss * each if z_loss else None
    if z_loss and z_rows:
        square = torch.full_like(row, z_loss) / (row.numel() if z_rows == "mean" else 1)
    terms = Terms(label, (1 - label_smoothing) * each, smooth, square, weight)
    return terms, torch.zeros_like(total) / total


def _loss(
    hidden, weight, target, bias=None, class_weight=None, reduction="mean", ignore_index=-100,
    label_smoothing=0.0, z_loss=0.0, recompute=None, chunk=0, z_rows="",
):  # fmt: skip
    hidden, weight, bias = _autocast(hidden, weight, bias)
    checks.call(hidden, weight, target, bias, class_weight, reduction)
    checks.numbers(label_smoothing, z_loss, chunk)
    dtype, v = softmax_dtype(hidden.dtype), weight.shape[0]
    options = (class_weight, reduction, ignore_index, label_smoothing, z_loss, z_rows)
    terms, more = _terms(target.flatten().long(), dtype, *options, v)
    layer = hidden.reshape(-1, weight.shape[1]), weight, bias
    wants = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in layer]
    if recompute is None:
        # A gradient in float16 is scaled beforehand, or it is lost below the least number.
        recompute = hidden.dtype == torch.float16
    with without_autocast(hidden.device):
        if reduction == "none":
            return _each(*layer, *terms, chunk).view(target.shape)
        if recompute or not any(wants):
            return _each(*layer, *terms, chunk).sum() + more
        return _total(*layer, *terms, wants, chunk)[0] + more


def _autocast(*layer):
    """Cast what a linear layer casts."""
    dtype = autocast_dtype(layer[0].device)
    if dtype is None:
        return layer
    lower = (t is not None and t.dtype in checks.FLOATING[:3] for t in layer)
    return [t.to(dtype) if low else t for t, low in zip(layer, lower, strict=True)]


_linear_cross_entropy = composite(
    "linear_cross_entropy",
    "(Tensor hidden, Tensor weight, Tensor target, Tensor? bias=None, Tensor? class_weight=None, "
    "str reduction='mean', int ignore_index=-100, float label_smoothing=0., float z_loss=0., "
    # With z_rows "mean" or "sum", z_loss is of all rows, ignored ones and all, and so reduced.
    "bool? recompute=None, int chunk=0, str z_rows='') -> Tensor",
    _loss,
)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    class_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    recompute: bool | None = None,
    chunk: int = 0,
) -> torch.Tensor:
    """Return `cross_entropy(linear(hidden, weight, bias), target)` without keeping the logits.

    Args:
        hidden: float32, bfloat16, float16 or float64 [..., d]; weight [v, d] and bias [v] alike.
        target: int64 or uint8 [...], classes 0 to v - 1 or `ignore_index`.
        class_weight: [v], as `weight` of torch's; it gets no gradient.
        reduction: "mean", "sum" or "none"; the mean of nothing is NaN, as in torch.
        ignore_index, label_smoothing: as in torch.nn.functional.cross_entropy.
        z_loss: adds z_loss * logsumexp(logits)² to each row's loss, before it is weighted and
            reduced (Chowdhery et al., PaLM, arXiv 2204.02311, section 5).
        recompute: compute the logits again in the backward, a third more products, and keep nothing
            at all; of half precision a third more still, and no fp32 sums as large as the weight
            where there are fewer than 64 rows for each unit of d. Else the gradients of hidden and
            weight are computed at once, and kept. None: for reduction "none" and float16, whose
            gradients must be scaled before they are made.
        chunk: rows whose logits exist at once; 0: chosen, at most a ninth of them.

    Returns:
        The loss in float32, or float64 for float64: [] or, for reduction "none", [...].

    Raises:
        RuntimeError: for what does not fit, in forward mode and under torch.func, and if gradients
            are differentiated again.
    """
    refuse_transforms("fxmem.functional.linear_cross_entropy", hidden, weight)
    options = {
        "class_weight": class_weight,
        "reduction": reduction,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "recompute": recompute,
        "chunk": chunk,
    }
    checks.kinds(**options)
    return _linear_cross_entropy(hidden, weight, target, bias, *options.values())
