"""The command line of the demo: train, measure, print, draw."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fxmem.commands.files import check_writable
from fxmem.demo import depth
from fxmem.demo.drawing import draw
from fxmem.demo.task import Task, new_model, read_text
from fxmem.demo.training import Trained, train
from fxmem.demo.ways import WAYS, Way
from fxmem.measure import Table, measure
from fxmem.measure.text import MiB, aligned

NEEDED = ("transformers", "matplotlib", "tqdm")
QUICK = {"layers": 2, "steps": 30, "judged": 4}
DEPTH_QUICK = {"steps": 10, "judged": 2}
NOTE = """\
kept: bytes that the forward leaves for the backward. peak: most bytes of a forward and backward,
gradients included, parameters and the optimizer's state not. time: of such a step, interleaved
with {first}'s. loss: nats a byte on held-out files, after {steps} steps on the same data.
Dropout is on: eager and compiled code draw different masks from the same seed, so that their losses
differ a little even where the gradients are exact."""


def main(arguments: list[str]) -> int:
    """Run the demo; return 0, or 2 where a package is missing or nothing can be written."""
    args = parse(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"the demo needs {', '.join(missing)}: pip install {' '.join(missing)}", file=sys.stderr
        )
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        check_writable(args.out / "demo.json")
    except OSError as error:
        print(f"fxmem demo: {error}", file=sys.stderr)
        return 2
    for path in MODELS[args.model](args):
        print(f"wrote {path}")
    return 0


def gpt(args: argparse.Namespace) -> tuple[Path, ...]:
    """Train GPT-2 in every way, print the table, return the files that were written."""
    task = _asked(Task(), QUICK, args)
    table, trained = run(task, WAYS)
    note = NOTE.format(first=table.rows[0].name, steps=task.steps)
    print(report(table, trained), note, sep="\n\n")
    return write(args.out, task, table, trained)


def reversible(args: argparse.Namespace) -> tuple[Path, ...]:
    """Train the reversible network at every depth, print the table, return what was written."""
    task = _asked(depth.TASK, DEPTH_QUICK, args)
    found = depth.run(task, depth.DEPTHS[:2] if args.quick else depth.DEPTHS, read_text())
    print(depth.report(found), depth.NOTE.format(steps=task.steps), sep="\n\n")
    return depth.write(args.out, task, found)


MODELS = {"gpt": gpt, "reversible": reversible}


def _asked(task: Task, quick: Mapping[str, int], args: argparse.Namespace) -> Task:
    """Return a task with what the command line changes of it."""
    task = replace(task, bf16=args.dtype == "bf16")
    task = replace(task, **quick) if args.quick else task
    return replace(task, steps=args.steps) if args.steps else task


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fxmem demo", description=__doc__)
    parser.add_argument(
        "--model",
        choices=MODELS,
        default="gpt",
        help="gpt: GPT-2 in every way; reversible: 12 to 96 layers at constant memory",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model, few steps")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument(
        "--out", type=Path, default=Path("fxmem-demo"), help="folder for PNG and JSON"
    )
    args = parser.parse_args(arguments)
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    return args


def run(task: Task, ways: Mapping[str, Way]) -> tuple[Table, dict[str, Trained]]:
    """Train in every way, then measure them side by side."""
    from tqdm import tqdm

    text = read_text()
    start = new_model(task)
    size = sum(p.numel() for p in start.parameters()) / 1e6
    print(
        f"GPT-2, {size:.1f} M parameters, on {len(text.train) / 1e6:.1f} MB of Python", flush=True
    )
    trained = {}
    # All ways run the same lines of Python, of which Dynamo would compile only eight variants.
    many = torch._dynamo.config.patch(recompile_limit=64)
    with many, tqdm(total=len(ways) * task.steps, unit="step", dynamic_ncols=True) as bar:
        for name, way in ways.items():
            bar.set_description(name)

            def tick(loss: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}")
                bar.update()

            trained[name] = train(start, way, task, text, tick)
        bar.set_description("measuring")
        bar.set_postfix()
        table = measure({name: result.variant for name, result in trained.items()}, rounds=5)
    return table, trained


def report(table: Table, trained: Mapping[str, Trained]) -> str:
    """Return the table that is printed."""
    head = ("", "kept MiB", "peak MiB", "time", "held-out loss")
    rows = [
        (
            row.name,
            f"{row.kept / MiB:.1f}",
            f"{row.peak / MiB:.1f}",
            f"{row.times.ratio:.2f}",
            f"{trained[row.name].held_out:.3f}",
        )
        for row in table.rows
    ]
    return aligned([head, *rows])


def write(
    folder: Path, task: Task, table: Table, trained: Mapping[str, Trained]
) -> tuple[Path, Path]:
    """Write picture and figures into ``folder``; return their paths."""
    picture, figures = folder / "demo.png", folder / "demo.json"
    draw(picture, trained, table)
    found = table.to_dict()
    for name, result in trained.items():
        found[name] |= {"held_out": result.held_out, "losses": result.losses}
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "task": asdict(task)}
    figures.write_text(json.dumps({**about, "ways": found}, indent=1) + "\n")
    return picture, figures
