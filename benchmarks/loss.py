"""The loss of a vocabulary: kept bytes, peak, step time and gradient error, several ways.

    python benchmarks/loss.py [--tokens 2048] [--classes 8192] [--width 256] [--dtype fp32 bf16]

The model is one layer and the head, cross_entropy(head(layer(x)).float(), labels), so that almost
all of a step is the loss. Torch has two answers of its own: Inductor's auto_chunker, and
torch.nn.functional.linear_cross_entropy with options. Errors are against fp64, times in turns.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from stack_case import DTYPES, gradient
from stack_case import error as distance
from torch import nn
from torch.nn import functional

from fxmem.demo.ways import Way, fxmem, inductor
from fxmem.functional import linear_cross_entropy
from fxmem.measure import Variant, kept, peak_bytes, step_times
from fxmem.measure.text import MiB, aligned

HEAD = ("", "kept MiB", "peak MiB", "of logits", "time", "±", "gradient error")


class Model(nn.Module):
    """A layer, and a head whose loss is taken in several ways."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, classes, bias=False)

    def plain(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As transformers does it."""
        return functional.cross_entropy(self.head(self.layer(x)).float(), labels)

    def exact(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """In the dtype of the model, for errors."""
        return functional.cross_entropy(self.head(self.layer(x)), labels)

    def torchs(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Torch's own chunks."""
        options = nn.LinearCrossEntropyOptions()
        given = self.layer(x), self.head.weight, labels
        return functional.linear_cross_entropy(*given, options=options)

    def ours(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """fxmem's function, which the backend puts in by itself."""
        return linear_cross_entropy(self.layer(x), self.head.weight, labels)

    def again(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The same with nothing kept at all."""
        return linear_cross_entropy(self.layer(x), self.head.weight, labels, recompute=True)


@dataclass(frozen=True)
class Row:
    """One way to compile one way to spell it."""

    way: Way
    forward: Callable[..., torch.Tensor] = Model.plain


# Inductor comes first: times are ratios to it.
ROWS = {
    "inductor": Row(inductor()),
    "eager": Row(Way()),
    "inductor, auto_chunker": Row(inductor({"auto_chunker.enable": True})),
    "torch's function, eager": Row(Way(), Model.torchs),
    "fxmem's function, eager": Row(Way(), Model.ours),
    "the same, recomputed": Row(Way(), Model.again),
    "fxmem exact, no such rule": Row(fxmem("exact", rules={"chunked_loss": False})),
    "fxmem exact": Row(fxmem("exact")),
}
if not hasattr(nn, "LinearCrossEntropyOptions"):  # torch 2.11 has none
    del ROWS["torch's function, eager"]


def build(args: argparse.Namespace, dtype: torch.dtype, row: Row) -> Variant:
    """Return a variant with the weights and data that every row has."""
    torch.manual_seed(0)
    model = Model(args.width, args.classes)
    x = torch.randn(args.tokens, args.width)
    labels = torch.randint(args.classes, [args.tokens])
    rounded = DTYPES[args.current]  # what every row is given, fp64's too
    model, x = model.to(rounded).to(dtype).to(args.device), x.to(rounded).to(dtype).to(args.device)
    labels = labels.to(args.device)

    def forward(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return row.forward(model, x, labels)

    run = row.way.compile(forward)
    return Variant(model, lambda: run(x, labels))


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure every row at one dtype."""
    torch._dynamo.reset()
    true = gradient(build(args, torch.float64, Row(Way(), Model.exact)))
    variants = {name: build(args, DTYPES[args.current], ROWS[name]) for name in args.rows}
    found = {}
    for name, variant in variants.items():
        variant.step()
        sizes = {"kept": kept(variant.forward).nbytes}
        sizes["peak"] = peak_bytes(variant.step, args.device)
        found[name] = {**sizes, "error": distance(gradient(variant), true)}
    steps = {name: variant.step for name, variant in variants.items()}
    for name, clocked in step_times(steps, args.rounds, args.device).items():
        found[name] |= {"ratio": clocked.ratio, "spread": clocked.spread}
    return found


def table(found: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    """Lay the rows out; of the peak also what is above hidden, its gradient and the weights'."""
    itemsize = DTYPES[args.current].itemsize
    logits = args.tokens * args.classes * itemsize
    floor = (args.classes + args.width + 2 * args.tokens) * args.width * itemsize
    lines = [HEAD]
    for name, row in found.items():
        sizes = (f"{row[key] / MiB:.1f}" for key in ("kept", "peak"))
        share = f"{(row['peak'] - floor) / logits:.3f}"
        times = f"{row['ratio']:.3f}", f"{row['spread'] / 2:.3f}"
        lines.append((name, *sizes, share, *times, f"{row['error']:.1e}"))
    return aligned(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="of interleaved steps")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64
    # A compiler worker's memory and time are not this process's.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    results = {}
    for dtype in args.dtype:
        args.current = dtype
        results[dtype] = found = measured(args)
        shape = f"{args.tokens} tokens x {args.classes} classes, width {args.width}"
        shape += f", {args.current}, {args.threads} thread(s)"
        print(f"\n{shape}\n{table(found, args)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "results": results}) + "\n")


if __name__ == "__main__":
    main()
