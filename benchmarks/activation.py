"""Activations: bits kept for the backward, time of forward and backward, and gradient error.

    python benchmarks/activation.py [--device cpu|cuda] [--function gelu silu] [--dtype fp32 bf16]
                                    [--json PATH] [--quick]

Bits are those that stay allocated, an element: alone, where nothing else keeps the output, and
beside the output, where the next layer keeps it anyway. Times are ratios to eager, all variants
interleaved in one process. The error is that of the slope, for N(0, 1) inputs, against float64:
relative, in the L2 norm, and the largest. On a GPU also the bytes that must move over the time, as
a share of what a copy (Tensor.clone) moves.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from codec import keep_freed_memory

from fxmem import functional, ops
from fxmem.activations.calculus import step_slopes
from fxmem.activations.table import TABLE
from fxmem.functional.signatures import torch_function
from fxmem.measure import kept, step_times
from fxmem.measure.text import aligned

FUNCTIONS = ("gelu", "gelu_tanh", "silu", "mish", "hardswish", "tanh", "relu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ELEMENTS = {"cpu": 2**22, "cuda": 2**27}
PUBLISHED = """Published by others, as measured by them or from their code:
  FewBit, GELU, 3 bits (stored in 4), 128 Mi fp32 on a GPU: forward and backward x 1.37 of eager
  OptiActs, from the output, fp32: largest error 1.9e-2 (GELU), 2.9e-3 (SiLU); SiLU in bf16 and
  fp16: NaN for some inputs"""

Call = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    """Print one table a dtype, and the published figures beneath."""
    args = parse()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    found = {}
    for dtype in args.dtype:
        rows = [row for name in args.function for row in measured(name, DTYPES[dtype], args)]
        found[dtype] = rows
        print(f"\n{dtype}, {args.elements} elements on {args.device}, {args.threads} thread(s)")
        print(table(rows), flush=True)
    print(f"\n{PUBLISHED}")
    if args.json:
        args.json.write_text(json.dumps({**about(args), "results": found}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=ELEMENTS)
    parser.add_argument("--function", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--elements", type=int, help="4 Mi on a CPU, 128 Mi on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of interleaved steps")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument(
        "--quick", action="store_true", help="a sixteenth of the elements, 5 rounds"
    )
    args = parser.parse_args()
    args.elements = args.elements or ELEMENTS[args.device] // (16 if args.quick else 1)
    args.rounds = 5 if args.quick else args.rounds
    return args


def about(args: argparse.Namespace) -> dict:
    """Say where and how figures were measured."""
    cuda = args.device == "cuda"
    machine = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    settings = ("device", "elements", "threads", "rounds")
    return {
        "torch": torch.__version__,
        "machine": machine,
        "native": args.device in ops.NATIVE,
        "settings": {name: getattr(args, name) for name in settings},
    }


def variants(name: str) -> dict[str, Call]:
    """Every way to compute an activation, eager first."""
    torch._dynamo.reset()  # else those of other functions count as recompilations
    row, own = TABLE[name], getattr(functional, name)
    eager = partial(torch_function(row), **dict(row.torch_keywords))
    widths = (1,) if step_slopes(row) else (1, 2, 3, 4)
    found = {"eager": eager, "torch.compile": torch.compile(lambda x: eager(x))}
    found |= {f"few-bit {bits}": partial(own, bits=bits) for bits in widths}
    if not step_slopes(row):
        found["few-bit 3 unbiased"] = partial(own, bits=3, unbiased=True)
    return found | {"from output": partial(own, keep="output")}


def measured(name: str, dtype: torch.dtype, args: argparse.Namespace) -> list[dict]:
    """Measure every variant of one activation."""
    draw = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(args.elements, generator=draw).to(args.device, dtype) for _ in range(2))
    calls = variants(name)
    truth = slope(calls["eager"], x.double())
    figures = {variant: figure(call, x, truth) for variant, call in calls.items()}
    del truth
    steps = {"copy": x.clone} if args.device == "cuda" else {}
    leaf = x.requires_grad_()
    steps = {v: partial(step, call, leaf, grad) for v, call in calls.items()} | steps
    times = step_times(steps, args.rounds, args.device)
    rows = []
    for variant, figured in figures.items():
        time = times[variant]
        row = {"function": name, "variant": variant, "time": time.ratio, "spread": time.spread / 2}
        row |= {"ms": time.least * 1e3, **figured}
        if "copy" in times:
            row["of copy"] = moved(row, x) / time.median / (2 * x.nbytes / times["copy"].median)
        rows.append(row)
    return rows


def step(call: Call, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Run forward and backward."""
    return torch.autograd.grad(call(x), x, grad)[0]


def slope(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the slope at x, float64."""
    return step(call, x.detach().clone().requires_grad_(), torch.ones_like(x)).double()


def figure(call: Call, x: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return bits kept, alone and beside the output, and the slope's error."""
    leaf = x.detach().clone().requires_grad_()
    off = slope(call, x) - truth
    # A square keeps what it squares, and nothing else.
    beside = kept(lambda: call(leaf.clone()).square()).nbytes - x.nbytes
    return {
        "bits": kept(lambda: call(leaf.clone())).nbytes * 8 / x.numel(),
        "bits beside": beside * 8 / x.numel(),
        "error": (off.norm() / truth.norm()).item(),
        "largest error": off.abs().max().item(),
    }


def moved(row: dict, x: torch.Tensor) -> float:
    """Return the bytes that a forward and a backward must move.

    They are x, y, both gradients, what is kept once more in the backward, and codes in the forward.
    """
    own = row["variant"].startswith(("few-bit", "from output"))
    return 4 * x.nbytes + (row["bits"] + own * row["bits beside"]) * x.numel() / 8


def table(rows: list[dict]) -> str:
    """Return the figures in columns."""
    copied = "of copy" in rows[0]
    head = ("function", "variant", "bits kept", "beside y", "time", "±", "ms", "error", "largest")
    body = [
        (
            *(row["function"], row["variant"], f"{row['bits']:.2f}", f"{row['bits beside']:.2f}"),
            *(f"{row['time']:.3f}", f"{row['spread']:.3f}", f"{row['ms']:.2f}"),
            *(f"{row['error']:.1e}", f"{row['largest error']:.1e}"),
            *((f"{row['of copy']:.2f}",) if copied else ()),
        )
        for row in rows
    ]
    return aligned([head + (("of copy",) if copied else ()), *body])


if __name__ == "__main__":
    main()
