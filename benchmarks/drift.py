"""What going back costs in accuracy: gradient error by depth, arithmetic and dtype, with peers.

    python benchmarks/drift.py [--depths 16 64 256] [--dtype fp32 bf16] [--json PATH]
    pip install --no-deps -r requirements/peers.txt   # to have RevLib and momentumnet in it

Errors are relative, over all parameters, against the same network in fp64 with everything kept.
"drift" is the distance to the same network in the same arithmetic with everything kept.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from stack_case import DTYPES
from stack_case import error as distance
from torch import nn

from fxmem.measure.text import aligned
from fxmem.nn.reversible import MomentumNet, ReversibleSequential

GAMMA = 0.9
Blocks = list[nn.Module]


@dataclass(frozen=True)
class Row:
    """A network that goes back, and the same with everything kept; both from a list of blocks."""

    back: Callable[[Blocks], nn.Module]
    kept: Callable[[Blocks], nn.Module]
    needs: str | None = None
    momentum: bool = False


def additive(memory: str, **options: object) -> Callable[[Blocks], nn.Module]:
    """Return what chains blocks by addition."""
    return lambda blocks: ReversibleSequential(*blocks, memory=memory, **options)


def momentum(memory: str, **options: object) -> Callable[[Blocks], nn.Module]:
    """Return what chains blocks by momentum."""
    return lambda blocks: MomentumNet(blocks, gamma=GAMMA, memory=memory, **options)


def revlib(blocks: Blocks) -> nn.Module:
    """RevLib's chain of the same blocks, its own memory mode."""
    from revlib import ReversibleSequential as Peer

    return Peer(*blocks)


def momentumnet(blocks: Blocks) -> nn.Module:
    """The momentum network of the paper's authors."""
    from momentumnet import MomentumNet as Peer

    return Peer(blocks, gamma=GAMMA, use_backprop=False)


def pair(make: Callable, **options: object) -> tuple[Callable, Callable]:
    """Return a network that goes back and the one that keeps everything."""
    return make("reversible", **options), make("none", **options)


ROWS = {
    "additive": Row(*pair(additive)),
    "additive, compensated 4 bits": Row(*pair(additive, compensate=4)),
    "additive, compensated 8 bits": Row(*pair(additive, compensate=8)),
    "additive, exact": Row(*pair(additive, exact=True)),
    "revlib": Row(revlib, additive("none"), needs="revlib"),
    "momentum": Row(*pair(momentum, exact=False), momentum=True),
    "momentum, compensated 8 bits": Row(*pair(momentum, exact=False, compensate=8), momentum=True),
    "momentum, exact": Row(*pair(momentum, exact=True), momentum=True),
    "momentumnet": Row(
        momentumnet, momentum("none", exact=False), needs="momentumnet", momentum=True
    ),
}


def new_blocks(depth: int, width: int) -> Blocks:
    """Return branches behind a norm, so small that a deep chain stays of one size."""
    blocks = [
        nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        for _ in range(depth)
    ]
    for block in blocks:
        block[-1].weight.data /= depth**0.5
    return blocks


def gradient(model: nn.Module, blocks: Blocks, x: torch.Tensor, weight: torch.Tensor) -> list:
    """Return the gradients of the blocks' parameters."""
    parameters = [p for block in blocks for p in block.parameters()]
    for p in parameters:
        p.grad = None
    (model(x) * weight).sum().backward()
    return [p.grad.double() for p in parameters]


def measured(args: argparse.Namespace, dtype: torch.dtype, depth: int) -> Iterator[tuple]:
    """Yield name, error and drift of every row."""
    torch.manual_seed(0)
    start = new_blocks(depth, args.width)
    whole = torch.randn(args.batch, 2 * args.width), torch.randn(args.batch, 2 * args.width)
    for name, row in ROWS.items():
        if row.needs and importlib.util.find_spec(row.needs) is None:
            continue
        data = tuple(t.chunk(2, 1)[0] if row.momentum else t for t in whole)
        plain = ROWS["momentum" if row.momentum else "additive"].kept
        true = run(plain, start, data, dtype, torch.float64)
        try:
            found = run(row.back, start, data, dtype, dtype)
        except (RuntimeError, AttributeError) as error:
            yield name, f"raises {type(error).__name__}", ""
            continue
        kept = run(row.kept, start, data, dtype, dtype)
        yield name, distance(found, true), distance(found, kept)


def run(
    make: Callable, start: Blocks, data: tuple, rounded: torch.dtype, dtype: torch.dtype
) -> list:
    """Return the gradient of fresh copies of the blocks, rounded first and computed in a dtype."""
    blocks = [copy.deepcopy(block).to(rounded).to(dtype) for block in start]
    x, weight = (t.to(rounded).to(dtype) for t in data)
    return gradient(make(blocks), blocks, x.requires_grad_(), weight)


def main() -> None:
    """Measure what the command line asks for."""
    args = parse()
    torch.set_num_threads(args.threads)
    results: dict[str, dict[int, dict]] = {}
    for dtype in args.dtype:
        results[dtype] = {
            depth: {
                name: (error, drift) for name, error, drift in measured(args, DTYPES[dtype], depth)
            }
            for depth in args.depths
        }
        head = ("", *(f"{d}: {what}" for d in args.depths for what in ("error", "drift")))
        names = next(iter(results[dtype].values()))
        rows = [
            (name, *(shown(v) for d in args.depths for v in results[dtype][d][name]))
            for name in names
        ]
        print(f"\n{dtype}, blocks\n{aligned([head, *rows])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "results": results}) + "\n")


def shown(value: float | str) -> str:
    """Return a figure as text."""
    return f"{value:.1e}" if isinstance(value, float) and value else str(value)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--width", type=int, default=64, help="of each stream")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
