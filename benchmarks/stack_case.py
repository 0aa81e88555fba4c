"""What benchmarks/stack.py measures: a stack of transformer blocks, and the ways to compile it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fxmem.demo.ways import Way, fxmem, inductor
from fxmem.measure import Variant

HEADS, BATCH, TOKENS = 8, 8, 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One model: what the rows of one table share."""

    mlp: str = "gelu"
    dtype: str = "fp32"
    layers: int = 8
    width: int = 256
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One way to run it, with or without torch's checkpoint around every block."""

    way: Way
    checkpoint: bool = False

    @property
    def random(self) -> bool:
        """Whether the gradient is drawn anew every time."""
        return self.way.options.get("rounding") == "stochastic"


# Every residual of half a MiB and more, which are all but statistics, as e5m2. Unscaled: the scaled
# form of torch 2.13 gives NaN gradients here.
_FP8 = {
    "post_grad_fusion_options": {
        "activation_quantization_aten_pass": {
            "allowed_dtypes": "torch.float32;torch.bfloat16",
            "size_in_mb": 0.5,
            "use_scaling": False,
        }
    }
}

# Inductor comes first: times are ratios to it.
ROWS = {
    "inductor": Row(inductor()),
    "eager": Row(Way()),
    "ban lifted": Row(inductor(ban_recompute_materialized_backward=False)),
    "budget 0.5": Row(inductor(activation_memory_budget=0.5)),
    "budget 0.2": Row(inductor(activation_memory_budget=0.2)),
    "checkpoint": Row(inductor(), checkpoint=True),
    "fp8": Row(inductor(_FP8, activation_memory_budget=0.999)),
    "exact": Row(fxmem("exact")),
    "balanced": Row(fxmem("balanced")),
    "compact": Row(fxmem("compact")),
    "compact, stochastic": Row(fxmem("compact", rounding="stochastic")),
    "balanced, checkpoint": Row(fxmem("balanced"), checkpoint=True),
}


# Asked for by name: all linear layers but the first and the last compute in integers.
INTEGER = {
    f"{method}, {preset}": Row(fxmem(preset, rules={"integer": method}))
    for method in ("int8", "wageubn8")
    for preset in ("exact", "balanced", "compact")
}


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def _gelu_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """A pre-norm block: causal attention, then GELU with LayerNorm, or SwiGLU with RMSNorm."""

    def __init__(self, mlp: str, width: int) -> None:
        super().__init__()
        norm, bias = (nn.LayerNorm, True) if mlp == "gelu" else (nn.RMSNorm, False)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.mlp = _gelu_mlp(width) if mlp == "gelu" else SwiGLU(width, 11 * width // 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Stack(nn.Module):
    """The blocks, each of them under torch's checkpoint if asked for."""

    def __init__(self, case: Case, by_block: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(case.mlp, case.width) for _ in range(case.layers))
        self.by_block = by_block

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        return self.blocks[0].qkv.weight.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.by_block else block(x)
        return x


def build(case: Case, row: Row, precision: torch.dtype | None = None) -> Variant:
    """Return a variant with the weights and data that every row of the case has.

    They are rounded to the case's dtype; with ``precision`` the same numbers compute in another.
    """
    torch.manual_seed(0)
    rounded = DTYPES[case.dtype]
    stack = Stack(case, row.checkpoint).to(rounded).to(case.device, precision or rounded)
    data = (torch.randn(BATCH, TOKENS, case.width).to(rounded) for _ in range(2))
    x, weight = (value.to(case.device, stack.dtype) for value in data)
    model = row.way.compile(stack)
    return Variant(stack, lambda: (model(x) * weight).sum())


def gradient(variant: Variant) -> list[torch.Tensor]:
    """Return the gradient of every parameter, in fp64 on the CPU."""
    variant.forward().backward()
    found = [p.grad.double().cpu() for p in variant.module.parameters()]
    variant.module.zero_grad(set_to_none=True)
    return found


def norm(tensors: list[torch.Tensor]) -> float:
    """Return the Euclidean norm of all of them together."""
    return sum(t.square().sum().item() for t in tensors) ** 0.5


def error(found: list[torch.Tensor], true: list[torch.Tensor]) -> float:
    """Return the distance of two gradients relative to the norm of the true one."""
    return norm([a - b for a, b in zip(found, true, strict=True)]) / norm(true)


def bias(variant: Variant, true: list[torch.Tensor], draws: int) -> dict[str, float]:
    """Judge whether the mean of many random gradients is the true one.

    ``mean_error`` is the mean's distance from the truth in standard errors of all coordinates
    together: 1 without bias. A bias too small for that still shows along the direction of the
    gradient itself (shrinkage) and, less, along random signs: of these two a parameter, ``z_rms``
    is the root mean square of bias over standard error (1 without bias) and ``z_most`` the largest.
    """
    signs = torch.Generator().manual_seed(1)
    directions = [
        (t / t.norm(), torch.randint(0, 2, t.shape, generator=signs) * 2.0 - 1) for t in true
    ]
    total = [torch.zeros_like(t) for t in true]
    squares, along = 0.0, []
    for seed in range(draws):
        torch.manual_seed(seed)
        off = [a - b for a, b in zip(gradient(variant), true, strict=True)]
        squares += norm(off) ** 2
        along.append([(d * v).sum() for d, pair in zip(off, directions, strict=True) for v in pair])
        for t, d in zip(total, off, strict=True):
            t += d
    mean = norm(total) / draws
    variance = (squares - draws * mean**2) / (draws - 1)
    samples = torch.tensor(along)
    # A parameter behind the last encoded tensor gets its gradient exactly, up to fp32's rounding.
    varies = samples.std(0) > 1e-6 * torch.tensor([t.norm() for t in true for _ in range(2)])
    z = (samples.mean(0) / samples.std(0))[varies] * draws**0.5
    return {
        "mean_error": mean / (variance / draws) ** 0.5,
        "z_rms": z.square().mean().sqrt().item(),
        "z_most": z.abs().max().item(),
    }
