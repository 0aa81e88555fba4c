"""A reversible network of two streams: kept bytes, peak, step time and gradient error by depth.

    python benchmarks/reversible.py [--kind transformer conv] [--layers 8 16 32] [--json PATH]
    python benchmarks/reversible.py --depths 8 16 32 64 128 --layers

Block k adds a branch of the second stream to the first, then a branch of the first to the second.
Every row trains the same weights on the same data; errors are against fp64, times in turns. The
table by `--depths` is of kept bytes alone, which are decided before Inductor would compile: what a
row keeps for one more block is a share of what eager keeps for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from reversible_case import KINDS, Kind, TwoStreams, modules
from stack_case import DTYPES, gradient
from stack_case import error as distance
from torch import nn

from fxmem.demo.ways import Way, fxmem, inductor
from fxmem.measure import Variant, kept, peak_bytes, step_times
from fxmem.measure.text import MiB, aligned

HEAD = ("", "kept MiB", "peak MiB", "time", "±", "gradient error")


@dataclass(frozen=True)
class Row:
    """One way to run the network."""

    way: Way
    make: Callable[[Kind, int, int], nn.Module] = TwoStreams


# Inductor comes first: times are ratios to it.
ROWS = {
    "inductor": Row(inductor()),
    "eager": Row(Way()),
    "budget 0.2": Row(inductor(activation_memory_budget=0.2)),
    "budget 0.1": Row(inductor(activation_memory_budget=0.1)),
    "checkpoint": Row(inductor(), partial(TwoStreams, by_block=True)),
    "exact, not reversible": Row(fxmem("exact", rules={"reversible": False})),
    "exact": Row(fxmem("exact")),
    "exact, keep 0.1": Row(fxmem("exact", rules={"reversible": {"keep": 0.1}})),
    "balanced": Row(fxmem("balanced")),
    "modules, eager": Row(Way(), modules),
    "modules, integers": Row(Way(), partial(modules, exact=True)),
    "modules, exact": Row(fxmem("exact"), modules),
}
AS_IT_IS = {"inner": "aot_eager"}
DEEP = {
    "eager": Row(Way()),
    "exact": Row(fxmem("exact", **AS_IT_IS)),
    "exact, integers": Row(fxmem("exact", rules={"reversible": {"exact": True}}, **AS_IT_IS)),
    "modules, eager": Row(Way(), modules),
    "modules, integers": Row(Way(), partial(modules, exact=True)),
}


def build(args: argparse.Namespace, kind: Kind, layers: int, row: Row, **precise: bool) -> Variant:
    """Return a variant with the weights and data that every row has, maybe computed in fp64."""
    torch.manual_seed(0)
    model = row.make(kind, layers, args.width)
    shape = kind.shape(args.batch, args.tokens, args.width)
    weight, x = torch.randn(shape), torch.randn(shape)
    dtype = torch.float64 if precise else DTYPES[args.dtype]
    # Rounded first: fp64 begins with the same numbers.
    model, x, weight = (t.to(DTYPES[args.dtype]).to(args.device, dtype) for t in (model, x, weight))
    run = row.way.compile(model)
    return Variant(model, lambda: (run(x) * weight).sum())


def measured(args: argparse.Namespace, kind: Kind, layers: int) -> dict[str, dict[str, float]]:
    """Measure every row at one depth."""
    torch._dynamo.reset()
    true = gradient(build(args, kind, layers, Row(Way()), precise=True))
    variants = {name: build(args, kind, layers, ROWS[name]) for name in args.rows}
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
    """Lay the rows of one depth out."""
    lines = [HEAD]
    for name, row in found.items():
        sizes = (f"{row[key] / MiB:.1f}" for key in ("kept", "peak"))
        times = f"{row['ratio']:.3f}", f"{row['spread'] / 2:.3f}"
        lines.append((name, *sizes, *times, f"{row['error']:.1e}"))
    return aligned(lines)


def kept_at(args: argparse.Namespace, kind: Kind, layers: int) -> dict[str, int]:
    """Return what every row keeps at one depth."""
    torch._dynamo.reset()
    return {name: kept(build(args, kind, layers, row).forward).nbytes for name, row in DEEP.items()}


def depth_table(by_depth: dict[int, dict[str, int]]) -> str:
    """Lay kept bytes out by depth, and what one more block adds, as a share of eager's."""
    least, most = min(by_depth), max(by_depth)
    growth = {name: by_depth[most][name] - by_depth[least][name] for name in DEEP}
    lines = [("blocks", *map(str, by_depth), "one more")]
    for name in DEEP:
        sizes = (f"{row[name] / MiB:.2f}" for row in by_depth.values())
        lines.append((name, *sizes, f"{100 * growth[name] / growth['eager']:.2f} %"))
    return aligned(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--layers", nargs="*", type=int, default=[8, 16, 32])
    parser.add_argument("--depths", nargs="*", type=int, default=[], help="of kept bytes alone")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--width", type=int, default=128, help="of each stream")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="or pixels a side")
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
    for name in args.kind:
        results[name] = by_depth = {}
        for layers in args.layers:
            by_depth[layers] = measured(args, KINDS[name], layers)
            title = f"{name}, {layers} blocks, {args.dtype}, {args.threads} thread(s)"
            print(f"\n{title}\n{table(by_depth[layers])}", flush=True)
        if args.depths:
            deep = {layers: kept_at(args, KINDS[name], layers) for layers in args.depths}
            results[f"{name}, kept"] = deep
            print(f"\n{name}, {args.dtype}: MiB kept\n{depth_table(deep)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "results": results}) + "\n")


if __name__ == "__main__":
    main()
