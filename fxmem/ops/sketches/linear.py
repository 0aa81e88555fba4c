"""Linear layers that keep a sketch of their input for the gradient of their weight."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import linear

from ..autocast import autocast_dtype, without_autocast
from ..eager import is_transformed
from ..second import Undifferentiable, once
from .operators import ONCE, follow
from .projection import Projection, check
from .shared import check_generator, drawn, sketch_of

SECOND = f"a sketched weight gradient has no derivative: {ONCE}"


def linear_randomized(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    proj_dim_ratio: float | None = None,
    proj_dim: int | None = None,
    proj_dim_min: int | None = None,
    proj_dim_max: int | None = None,
    matmul: str = "gaussian",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Compute torch's `linear`, and keep k rows for the weight's gradient in place of all n.

    n is the product of all dimensions of the input but the last. The output and the gradients of
    input and bias are torch's own; that of the weight is (S dY)ᵀ (S X), whose expectation is dYᵀ X.
    S is drawn anew at every call, from a seed of torch's generator; layers that are given the very
    same tensor share it, each once (but under other compilers than fxmem). A frozen weight keeps
    nothing; where k is n, and under the transforms of torch.func, X itself is kept. A call takes
    one number of the generator, whether a sketch is made, shared or (under no_grad) none, so that a
    checkpoint that calls it again finds the generator as it was; it takes none for a frozen
    parameter and in inference mode. That does not hold of a compiled layer inside an eager
    checkpoint with use_reentrant=True, for compilers drop a draw that is not used: compile the
    checkpoint, or use the other kind.
    (Novikov et al., Memory-Efficient Backpropagation through Large Linear Layers, 2022.)

    Args:
        input: [..., in_features], float32, bfloat16, float16 or float64.
        weight: [out_features, in_features].
        bias: [out_features].
        proj_dim_ratio: k / n, in (0, 1].
        proj_dim: k itself, at most n.
        proj_dim_min, proj_dim_max: bounds of k; n is one as well.
        matmul: what S is: "gaussian", "rademacher", "dct", "dft", "hadamard", "crs" or
            "crs_norm"; `fxmem.ops.sketches.operators` has their formulas. The last three cost
            the least.
        generator: what the seed is drawn from, on the input's device; default: torch's own.

    Raises:
        ValueError: for an impossible k or kind, or a generator on another device.
        RuntimeError: if the weight's gradient is differentiated again.
    """
    wanted = Projection(proj_dim_ratio, proj_dim, proj_dim_min, proj_dim_max, matmul)
    check(wanted)
    check_generator(generator)
    return sketched(input, weight, bias, wanted, generator)


def linear_crs(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    proj_dim_ratio: float | None = None,
    proj_dim: int | None = None,
    proj_dim_min: int | None = None,
    proj_dim_max: int | None = None,
    norm_weighted: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Compute torch's `linear`, and keep k of its input's n rows for the weight's gradient.

    They are drawn at random, evenly or (`norm_weighted`) in proportion to their norms. The rest is
    as in :func:`linear_randomized`.
    """
    kind = "crs_norm" if norm_weighted else "crs"
    wanted = Projection(proj_dim_ratio, proj_dim, proj_dim_min, proj_dim_max, kind)
    check(wanted)
    check_generator(generator)
    return sketched(input, weight, bias, wanted, generator)


def sketched(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: Projection,
    generator: torch.Generator | None,
    user: torch.Tensor | None = None,
    training: bool = True,
) -> torch.Tensor:
    """Compute `linear` with a sketch of what was checked before.

    `user` is what uses a sketch once, where the weight is but a view of it, made for this call.
    Where neither gradients are enabled nor `training` is said, nothing is drawn.
    """
    n, user = math.prod(input.shape[:-1]), weight if user is None else user
    if n == 0 or is_transformed() or not _draws(user, training):
        return linear(input, weight, bias)
    seed = drawn(input.device, generator)
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return linear(input, weight, bias)
    # Autocast's copies are new at each call: it is by what was given that sketches are shared.
    rows, owner = wanted.rows(n), input
    if rows == n:
        return linear(input, weight, bias)
    kind = autocast_dtype(input.device)
    if kind is not None:
        input, weight, bias = (_cast(t, kind) for t in (input, weight, bias))
    with torch.no_grad():
        flat = input.detach().reshape(n, input.size(-1))
        kept, key = sketch_of(owner, flat, user, wanted.matmul, rows, seed, generator)
    with without_autocast(input.device):
        return _Linear.apply(input, weight, bias, kept, key, wanted.matmul)


def _draws(weight: torch.Tensor, training: bool) -> bool:
    """Whether a call takes a number of the generator: alike with and without gradients.

    A checkpoint may run forward under no_grad first, and what is drawn behind must be the same when
    it runs again. A computed weight needs no gradient there, so only a parameter is known frozen.
    """
    frozen = isinstance(weight, torch.nn.Parameter) and not weight.requires_grad
    # Dynamo cannot ask whether it is inference mode.
    inference = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return (torch.is_grad_enabled() or training) and not frozen and not inference


def _weight_grad(
    grad: torch.Tensor, kept: torch.Tensor, kind: str, key: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    return follow(grad, kind, kept.size(0), key).mT @ kept


def _cast(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)


class _Linear(torch.autograd.Function):
    """torch's linear, with another gradient of the weight."""

    @staticmethod
    def forward(input, weight, bias, kept, key, kind):
        return linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight, _, kept, key, ctx.kind = inputs
        ctx.save_for_backward(weight, kept, key)

    @staticmethod
    def backward(ctx, grad):
        weight, kept, key = ctx.saved_tensors
        flat = grad.reshape(-1, grad.size(-1))
        input_grad = grad @ weight if ctx.needs_input_grad[0] else None
        weight_grad = bias_grad = None
        if ctx.needs_input_grad[1]:
            # The weight is not read, but leads a second derivative here, to be refused.
            given = (once(flat), kept, ctx.kind, key, weight)
            weight_grad = Undifferentiable.apply(_weight_grad, SECOND, *given)
        if ctx.needs_input_grad[2]:
            bias_grad = flat.sum(0)
        return input_grad, weight_grad, bias_grad, None, None, None
