"""What coarse gradients do to training: held-out loss against exact training, over paired seeds.

    python benchmarks/convergence.py [--group linear] [--task text digits] [--seeds 5]

A seed fixes initial weights, batches and dropout for every way; the difference to exact training is
taken seed by seed, and its 95 % confidence interval is Student's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from scipy import stats
from tasks import TRAININGS, Training, train
from torch import nn
from tqdm import tqdm

import fxmem
import fxmem.nn
from fxmem.measure.text import aligned

HEAD = ("", "held-out loss", "difference", "95 %")
EXACT = "exact"


def main() -> None:
    """Train every way with every seed; print and write the tables."""
    args = parse()
    torch.set_num_threads(args.threads)
    results = {}
    total = len(args.task) * len(args.ways) * args.seeds
    with tqdm(total=total, unit="run") as bar:
        for task in args.task:
            training = TRAININGS[task](args.steps)
            results[task] = losses(training, args.ways, args.seeds, bar)
    tables = {task: table(found) for task, found in results.items()}
    for task, rows in tables.items():
        print(f"\n{task}: {args.steps} steps, {args.seeds} seeds")
        print(aligned([HEAD, *rows]))
    if args.json:
        about = {"torch": torch.__version__, "steps": args.steps, "seeds": args.seeds}
        args.json.write_text(json.dumps({**about, "losses": results}, indent=1) + "\n")
    if args.table:
        args.table.write_text("\n".join(markdown(task, rows) for task, rows in tables.items()))


def activations(**options: object) -> Callable[[nn.Module], nn.Module]:
    """Return what replaces every activation of a model by fxmem's with these options."""

    def prepare(model: nn.Module) -> nn.Module:
        fxmem.convert(model, {fxmem.nn.is_activation: options})
        return model

    return prepare


def sketched(ratio: float) -> Callable[[nn.Module], nn.Module]:
    """Return what makes linear layers keep a sketch of their input, of `ratio` times its rows."""

    def prepare(model: nn.Module) -> nn.Module:
        fxmem.convert(model, {nn.Linear: {"sketch": ratio}})
        return model

    return prepare


def residuals(preset: str) -> Callable[[nn.Module], nn.Module]:
    """Return what compiles a model with encoded residuals."""
    return lambda model: torch.compile(model, backend="fxmem", options={"preset": preset})


Ways = dict[str, Callable[[nn.Module], nn.Module]]
ACTIVATIONS: Ways = {
    "from the output": activations(keep="output"),
    **{f"{b} bit{'s' * (b > 1)}": activations(bits=b) for b in (4, 3, 2, 1)},
    **{
        f"{b} bit{'s' * (b > 1)}, unbiased": activations(bits=b, unbiased=True)
        for b in (4, 3, 2, 1)
    },
}
LINEAR: Ways = {
    **{f"sketch {ratio:.0%}": sketched(ratio) for ratio in (0.5, 0.2, 0.1)},
    "8-bit residuals": residuals("balanced"),
    "4-bit residuals": residuals("compact"),
}
GROUPS = {"activations": ACTIVATIONS, "linear": LINEAR}
WAYS: Ways = {EXACT: lambda model: model, **ACTIVATIONS, **LINEAR}


def losses(training: Training, ways: list[str], seeds: int, bar: tqdm) -> dict[str, list[float]]:
    """Return the held-out losses of each way, one a seed."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        for way in ways:
            bar.set_postfix_str(way)
            found[way].append(train(training, seed, WAYS[way]))
            bar.update()
    return found


def table(found: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """Return a row a way: mean loss, mean difference to exact training, half its interval."""
    exact = torch.tensor(found[EXACT], dtype=torch.float64)
    rows = []
    for way, values in found.items():
        loss = torch.tensor(values, dtype=torch.float64)
        off = loss - exact
        half = stats.t.ppf(0.975, len(off) - 1) * off.std().item() / len(off) ** 0.5
        shown = ("", "") if way == EXACT else (f"{off.mean():+.4f}", f"± {half:.4f}")
        rows.append((way, f"{loss.mean():.4f}", *shown))
    return rows


def markdown(task: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table for the documents."""
    lines = [f"| {task} | {' | '.join(HEAD[1:])} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--group", choices=GROUPS, default="activations")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all of the group")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the losses here")
    parser.add_argument("--table", type=Path, help="write Markdown tables here")
    args = parser.parse_args()
    args.ways = args.ways or list(GROUPS[args.group])
    if EXACT not in args.ways:
        args.ways.insert(0, EXACT)
    return args


if __name__ == "__main__":
    main()
