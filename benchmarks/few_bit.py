"""Frozen MLPs that a gradient only passes: kept bytes, time and gradient error, by bits.

    python benchmarks/few_bit.py [--act gelu silu mish] [--layers 3] [--threads 1] [--residual]
    python benchmarks/few_bit.py --act gelu --layers 1 --bias -2   # away from where levels are best

Nothing in them is trained, as below adapters, so the backward reads the hidden values for the
activation's derivative alone.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable

import torch
from torch import nn

from fxmem.measure import Variant, measure
from fxmem.measure.text import MiB, aligned

WIDTH, HIDDEN, TOKENS = 256, 1024, 2048
ACTS = {"gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish}
COMPACT = {"preset": "compact"}
ROWS = {
    "inductor": None,
    "exact": {},
    "balanced, encoded in 8 bits": {"preset": "balanced"},
    "compact, encoded in 4 bits": {**COMPACT, "rules": {"few_bit": False}},
    **{f"compact, {b}-bit code": {**COMPACT, "rules": {"few_bit": {"bits": b}}} for b in (4, 3, 2)},
}


class Frozen(nn.Module):
    """Layers of which no parameter is trained."""

    def __init__(self, act: str, layers: int, residual: bool, bias: float) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), ACTS[act](), nn.Linear(HIDDEN, WIDTH))
            for _ in range(layers)
        ).requires_grad_(False)
        for linear, *_ in self.layers:
            linear.bias += bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layers make of a batch of tokens."""
        for layer in self.layers:
            x = x + layer(x) if self.residual else layer(x)
        return x


def main() -> None:
    """Print one table an activation."""
    args = parse()
    torch.set_num_threads(args.threads)
    for act in args.act:
        print(f"\n{act}, {args.layers} layers, {args.threads} thread(s)")
        print(aligned([("", "kept MiB", "peak MiB", "time", "gradient error"), *table(act, args)]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--act", nargs="+", choices=ACTS, default=list(ACTS))
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="of interleaved steps")
    parser.add_argument("--bias", type=float, default=0.0, help="added to each activation's input")
    parser.add_argument("--residual", action="store_true", help="each layer adds to its input")
    return parser.parse_args()


def table(act: str, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Measure every way to compile one model."""
    torch._dynamo.reset()  # which compiles one piece of code in eight ways at most
    torch.manual_seed(0)
    model = Frozen(act, args.layers, args.residual, args.bias)
    x, out = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(TOKENS, WIDTH)
    exact = gradient(copy.deepcopy(model).double(), x.double(), out.double())
    calls = {name: compiled(model, options) for name, options in ROWS.items()}
    errors = {}
    for name, call in calls.items():
        found = gradient(call, x, out)
        errors[name] = ((found - exact).norm() / exact.norm()).item()
    loss = {name: functools.partial(dot, call, x, out) for name, call in calls.items()}
    measured = measure({name: Variant(model, f) for name, f in loss.items()}, args.rounds)
    return [
        (
            *(row.name, f"{row.kept / MiB:.2f}", f"{row.peak / MiB:.2f}"),
            *(f"{row.times.ratio:.3f} ±{row.times.spread / 2:.3f}", f"{errors[row.name]:.1e}"),
        )
        for row in measured.rows
    ]


def compiled(model: Frozen, options: dict | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile a model with Inductor, or with fxmem and these options."""
    if options is None:
        return torch.compile(model)
    return torch.compile(model, backend="fxmem", options=options)


def dot(call: Callable, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Return a loss whose gradient tells elements apart."""
    return (call(x) * out).sum()


def gradient(call: Callable, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the input, float64."""
    (found,) = torch.autograd.grad(dot(call, x, out), x)
    return found.double()


if __name__ == "__main__":
    main()
