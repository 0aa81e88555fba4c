"""A stack of transformer blocks: kept bytes, peak, time, gradient error and compile time.

    python benchmarks/stack.py [--dtype fp32 bf16] [--mlp gelu swiglu] [--json PATH] [--quick]
    python benchmarks/stack.py --width 768 --layers 4 --rows inductor int8,\ balanced

Bytes, errors and compile times come from one process a row, with caches that begin empty; times
from one process a model, in which all rows run in turn. Compile time is processor time of the
first step, of the compiler's own processes too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from stack_case import DTYPES, INTEGER, ROWS, Case, bias, build, error, gradient

from fxmem.measure import kept, peak_bytes, step_times
from fxmem.measure.text import MiB, aligned

ALL = ROWS | INTEGER
HEAD = ("", "kept MiB", "peak MiB", "time", "±", "gradient error", "compile", "bias")


def main() -> int:
    """Measure what the command line asks for; return 1 if a row could not be measured."""
    args = parse()
    if args.child:
        torch.set_num_threads(args.threads)
        case = Case(args.mlp[0], args.dtype[0], args.layers, args.width, args.device)
        found = times(case, args) if args.child == "times" else memory(case, args)
        args.json.write_text(json.dumps(found))
        return 0
    results = {}
    for mlp, dtype in product(args.mlp, args.dtype):
        case = Case(mlp, dtype, args.layers, args.width, args.device)
        results[f"{mlp} {dtype}"] = found = measured(case, args)
        print(f"\n{mlp} {dtype}, {args.layers} layers, {args.threads} thread(s)")
        print(table(found), "\n", flush=True)
    if args.json:
        about = {
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "settings": {
                "device": args.device,
                "layers": args.layers,
                "width": args.width,
                "threads": args.threads,
                "rounds": args.rounds,
            },
        }
        args.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    return any("failed" in row for found in results.values() for row in found.values())


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--mlp", nargs="+", choices=("gelu", "swiglu"), default=["gelu", "swiglu"])
    rows = parser.add_argument("--rows", nargs="+", choices=ALL, default=list(ROWS), metavar="ROW")
    rows.help = f"of {'; '.join(ALL)}; by default all but those of integers"
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of interleaved steps")
    parser.add_argument("--draws", type=int, default=64, help="of a random gradient")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="two layers, few rounds and draws")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.layers, args.rounds, args.draws = 2, 5, 8
    return args


def measured(case: Case, args: argparse.Namespace) -> dict[str, dict]:
    """Run every row in a process of its own, then all that worked in one for their times."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: child(name, [name], case, args, folder) for name in args.rows}
        worked = [name for name, row in found.items() if "failed" not in row]
        clocked = child("times", worked, case, args, folder)
    for name in worked:
        row = clocked if "failed" in clocked else clocked[name]
        # Dynamo may run what it compiled for another row, unasked: then the times are that row's.
        if row.get("kept", found[name]["kept"]) != found[name]["kept"]:
            row = {"failed": f"the code that was timed keeps {row['kept']} bytes"}
        found[name] |= row
    return found


def child(task: str, rows: list[str], case: Case, args: argparse.Namespace, folder: str) -> dict:
    """Return what a fresh process finds, or its last complaint as ``failed``."""
    print(f"{case.mlp} {case.dtype}: {task} …", file=sys.stderr, flush=True)
    answer = Path(folder, "answer.json")
    command = [sys.executable, __file__, "--child", task, "--rows", *rows, "--json", str(answer)]
    for name, value in {**asdict(case), "threads": args.threads, "rounds": args.rounds}.items():
        command += [f"--{name}", str(value)]
    command += ["--draws", str(args.draws)]
    # One compile worker: the compiler then runs below this process, whose time counts it.
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "STACK_CACHES": folder}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        complaints = re.findall(r"^\S*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
        return {"failed": (complaints or [f"exit status {done.returncode}"])[-1]}
    return json.loads(answer.read_text())


def own_caches(name: str) -> None:
    """Compile into this row's caches, which no other row has warmed."""
    folder = re.sub(r"\W+", "-", name)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(os.environ["STACK_CACHES"], folder))


def processor_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def memory(case: Case, args: argparse.Namespace) -> dict[str, float]:
    """Measure one row, but for its step time."""
    [name] = args.rows
    row = ALL[name]
    # What any first compilation pays: imports, the probing of the compiler.
    own_caches("warm-up")
    torch.compile(lambda x: x.exp().sum())(torch.randn(8, 8, requires_grad=True)).backward()
    own_caches(name)
    variant = build(case, row)
    start = processor_seconds()
    variant.step()
    found = {"compile": processor_seconds() - start}
    found |= {"kept": kept(variant.forward).nbytes, "peak": peak_bytes(variant.step, case.device)}
    true = gradient(build(case, ALL["eager"], torch.float64))
    found["error"] = error(gradient(variant), true)
    return found | (bias(variant, true, args.draws) if row.random else {})


def times(case: Case, args: argparse.Namespace) -> dict[str, dict]:
    """Measure the step times of several rows in turn, as ratios to the first."""
    # All rows run the same lines of Python, of which Dynamo would compile only eight variants.
    torch._dynamo.config.recompile_limit = 64
    variants = {}
    for name in args.rows:
        own_caches(name)
        variants[name] = build(case, ALL[name])
        variants[name].step()
    steps = {name: variant.step for name, variant in variants.items()}
    clocked = step_times(steps, args.rounds, case.device)
    return {
        name: {**asdict(clocked[name]), "kept": kept(variant.forward).nbytes}
        for name, variant in variants.items()
    }


def table(found: dict[str, dict]) -> str:
    """Lay the rows out; compile time as the ratio to the first row's."""
    base = next(iter(found.values())).get("compile")
    lines, failures = [HEAD], []
    for name, row in found.items():
        if "failed" in row:
            failures.append(f"{name}: {row['failed']}")
            continue
        compiled = f"{row['compile'] / base:.2f}" if base and ALL[name].way.backend else ""
        bias = "{mean_error:.2f}, z {z_rms:.2f} ≤ {z_most:.1f}" if "z_rms" in row else ""
        lines.append(
            (
                name,
                f"{row['kept'] / MiB:.1f}",
                f"{row['peak'] / MiB:.1f}",
                f"{row['ratio']:.3f}",
                f"{row['spread'] / 2:.3f}",
                f"{row['error']:.1e}",
                compiled,
                bias.format(**row),
            )
        )
    return "\n".join([aligned(lines), *failures])


if __name__ == "__main__":
    sys.exit(main())
