"""Norms that keep their output, in eager mode: forward and backward against torch's own.

    python benchmarks/norms.py [--device cpu] [--rounds 30] [--json PATH]

What is kept is seen in benchmarks/eager.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from stack_case import DTYPES
from torch.nn import functional as torchs

from fxmem import functional as ours
from fxmem.measure import step_times
from fxmem.measure.text import aligned
from fxmem.measure.times import Times

ROWS = ((2048, 256), (512, 768), (4096, 1024))
IMAGES = (8, 64, 32, 32)
# Of a module of functions, an input and its weights; torch.functional or ours.
OF_ROWS = {
    "layer norm": lambda f, x, w, b: f.layer_norm(x, [x.shape[1]], w, b),
    "rms norm": lambda f, x, w, b: f.rms_norm(x, [x.shape[1]], w, 1e-6),
}
OF_IMAGES = {
    "group norm": lambda f, x, w, b: f.group_norm(x, 8, w, b),
    "batch norm": lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True),
}


def step(norm: Callable, functions: ModuleType, *leaves: torch.Tensor) -> Callable[[], None]:
    """Return a forward and backward of a norm."""
    grad = torch.randn_like(leaves[0])
    return lambda: torch.autograd.grad(norm(functions, *leaves), leaves, grad, allow_unused=True)


def cases(dtype: torch.dtype, device: str) -> Iterator[tuple[str, dict[str, Callable]]]:
    """Yield each norm: its name, and a step of torch's and of ours."""
    for shape in (*ROWS, IMAGES):
        channels = shape[1]
        weight, bias = torch.rand(channels) + 0.5, torch.randn(channels) / 10
        leaves = [t.to(device, dtype).requires_grad_() for t in (torch.randn(shape), weight, bias)]
        for name, norm in (OF_IMAGES if shape == IMAGES else OF_ROWS).items():
            steps = {m.__name__: step(norm, m, *leaves) for m in (torchs, ours)}
            yield f"{name} {' x '.join(map(str, shape))}", steps


def main() -> None:
    """Print a row for each norm and shape, a column for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found: dict[str, dict[str, Times]] = {}
    for name, dtype in DTYPES.items():
        for title, steps in cases(dtype, args.device):
            clocked = step_times(steps, args.rounds, args.device)[ours.__name__]
            found.setdefault(title, {})[name] = clocked
    if args.json:
        plain = {title: {k: asdict(t) for k, t in row.items()} for title, row in found.items()}
        args.json.write_text(json.dumps(plain, indent=1) + "\n")
    lines = [
        (title, *(f"{t.ratio:.2f} ± {t.spread / 2:.2f}" for t in row.values()))
        for title, row in found.items()
    ]
    print(aligned([("of torch's time", *DTYPES), *lines]))


if __name__ == "__main__":
    main()
