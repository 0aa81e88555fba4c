"""A reversible transformer of two streams: kept bytes, peak, step time and gradient error by depth.

    python benchmarks/reversible.py [--layers 4 8 16] [--dtype fp32] [--rounds 10] [--json PATH]

Block k adds attention of the second stream to the first, then an MLP of the first to the second.
Every row trains the same weights on the same data; errors are against fp64, times in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from stack_case import DTYPES, gradient
from stack_case import error as distance
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fxmem.demo.ways import Way, fxmem, inductor
from fxmem.measure import Variant, kept, peak_bytes, step_times
from fxmem.measure.text import MiB, aligned

HEADS = 8
HEAD = ("", "kept MiB", "peak MiB", "time", "±", "gradient error")


@dataclass(frozen=True)
class Row:
    """One way to run the model, with or without torch's checkpoint around every block."""

    way: Way
    checkpoint: bool = False


# Inductor comes first: times are ratios to it.
ROWS = {
    "inductor": Row(inductor()),
    "eager": Row(Way()),
    "budget 0.2": Row(inductor(activation_memory_budget=0.2)),
    "checkpoint": Row(inductor(), checkpoint=True),
    "exact": Row(fxmem("exact")),
    "exact, reversible": Row(fxmem("exact", rules={"reversible": True})),
}


class Attention(nn.Module):
    """Causal self-attention behind a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Module:
    """Return an MLP behind a norm, four times as wide inside."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Linear(4 * width, width),
    )


class Block(nn.Module):
    """Two additive couplings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g = Attention(width), feed_forward(width)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = a + self.f(b)
        return a, b + self.g(a)


class TwoStreams(nn.Module):
    """Blocks on two streams, split from one embedding and joined at the end."""

    def __init__(self, layers: int, width: int, by_block: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.by_block = by_block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.embed(x).chunk(2, -1)
        for block in self.blocks:
            if self.by_block:
                a, b = checkpoint(block, a, b, use_reentrant=False)
            else:
                a, b = block(a, b)
        return torch.cat([a, b], -1)


def build(args: argparse.Namespace, layers: int, row: Row, precise: bool = False) -> Variant:
    """Return a variant with the weights and data that every row has, maybe computed in fp64."""
    torch.manual_seed(0)
    rounded = DTYPES[args.dtype]
    model = TwoStreams(layers, args.width, row.checkpoint).to(rounded)
    shape = args.batch, args.tokens
    x, weight = (torch.randn(*shape, w).to(rounded) for w in (args.width, 2 * args.width))
    if precise:
        model, x, weight = model.double(), x.double(), weight.double()
    model, x, weight = (t.to(args.device) for t in (model, x, weight))
    run = row.way.compile(model)
    return Variant(model, lambda: (run(x) * weight).sum())


def measured(args: argparse.Namespace, layers: int) -> dict[str, dict[str, float]]:
    """Measure every row at one depth."""
    torch._dynamo.reset()
    true = gradient(build(args, layers, Row(Way()), precise=True))
    variants = {name: build(args, layers, ROWS[name]) for name in args.rows}
    found = {name: judged(variant, true, args.device) for name, variant in variants.items()}
    steps: dict[str, Callable] = {name: variant.step for name, variant in variants.items()}
    for name, clocked in step_times(steps, args.rounds, args.device).items():
        found[name] |= {"ratio": clocked.ratio, "spread": clocked.spread}
    return found


def judged(variant: Variant, true: list[torch.Tensor], device: str) -> dict[str, float]:
    """Compile one row; return what it keeps, its peak and its gradient's error."""
    variant.step()
    return {
        "kept": kept(variant.forward).nbytes,
        "peak": peak_bytes(variant.step, device),
        "error": distance(gradient(variant), true),
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """Lay the rows out."""
    lines = [HEAD]
    for name, row in found.items():
        sizes = (f"{row[key] / MiB:.1f}" for key in ("kept", "peak"))
        times = f"{row['ratio']:.3f}", f"{row['spread'] / 2:.3f}"
        lines.append((name, *sizes, *times, f"{row['error']:.1e}"))
    return aligned(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--width", type=int, default=256, help="of each stream")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="of interleaved steps")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64
    results = {}
    for layers in args.layers:
        results[layers] = found = measured(args, layers)
        print(
            f"\n{layers} blocks, {args.dtype}, {args.threads} thread(s)\n{table(found)}", flush=True
        )
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "results": results}) + "\n")


if __name__ == "__main__":
    main()
