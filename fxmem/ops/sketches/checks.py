"""What the sketching operators refuse, in a sentence; native/sketch.h makes the same checks."""

import torch

from ..activations.checks import floating
from ..checks import require
from ..layout import known_int

KINDS = ("gaussian", "rademacher", "dct", "dft", "hadamard", "crs")


def sketch(x: torch.Tensor, kind: str, rows: int, seed: torch.Tensor) -> None:
    """Refuse a bad call of fxmem::sketch."""
    require(kind in KINDS, "sketch", "kind", f"one of {', '.join(KINDS)}", kind)
    sample(x, rows, seed, "sketch")


def sample(x: torch.Tensor, rows: int, seed: torch.Tensor, op: str = "sample") -> None:
    """Refuse a bad call of fxmem::sample."""
    require(x.dim() == 2, op, "x", "a matrix", f"{x.dim()} dimensions")
    floating(op, "x", x.dtype)
    n, k = known_int(x.size(0)), known_int(rows)
    if n is not None and k is not None:
        require(min(n, 1) <= k <= n, op, "rows", f"1 to {n}, the rows of x", k)
    single = seed.dtype == torch.int64 and seed.numel() == 1
    got = f"{tuple(seed.shape)} of {seed.dtype}"
    require(single, op, "seed", "an int64 tensor of one element", got)
    require(seed.device == x.device, op, "seed", "on the device of x", seed.device)
