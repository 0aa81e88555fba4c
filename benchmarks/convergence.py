"""What coarse gradients do to training: held-out loss against exact training, over paired seeds.

    python benchmarks/convergence.py [--group linear] [--task text digits] [--seeds 5]
    python benchmarks/convergence.py --group attention --task flash --steps 600

A seed fixes initial weights, batches and dropout for every way; the difference to exact training is
taken seed by seed, and its 95 % confidence interval is Student's. "Kept" is what one forward leaves
for its backward. With --json, runs that the file holds already are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from coded_linear import coded
from scipy import stats
from tasks import TRAININGS, kept_bytes, train, with_linear_layers
from torch import nn
from tqdm import tqdm

import fxmem
import fxmem.nn
from fxmem.measure.text import MiB, aligned

HEAD = ("", "kept MiB", "held-out loss", "difference", "95 %")
EXACT = "exact"


def main() -> None:
    """Train every way with every seed; print and write the tables."""
    args = parse()
    torch.set_num_threads(args.threads)
    log = Log(args)
    with tqdm(total=len(args.task) * len(args.ways) * args.seeds, unit="run") as bar:
        for task in args.task:
            fill(log, task, args, bar)
    tables = {task: table(log.results[task], args.ways) for task in args.task}
    for task, rows in tables.items():
        print(f"\n{task}: {args.steps} steps, {args.seeds} seeds")
        print(aligned([HEAD, *rows]))
    if args.table:
        args.table.write_text("\n".join(markdown(task, rows) for task, rows in tables.items()))


def activations(**options: object) -> Callable[[nn.Module], nn.Module]:
    """Return what replaces every activation of a model by fxmem's with these options."""

    def prepare(model: nn.Module) -> nn.Module:
        fxmem.convert(model, {fxmem.nn.is_activation: options})
        return model

    return prepare


def sketched(ratio: float, kind: str = "gaussian") -> Callable[[nn.Module], nn.Module]:
    """Return what makes linear layers keep a sketch of their input, of `ratio` times its rows."""

    def prepare(model: nn.Module) -> nn.Module:
        sketch = {"proj_dim_ratio": ratio, "matmul": kind}
        return fxmem.convert(with_linear_layers(model), {nn.Linear: {"sketch": sketch}}).model

    return prepare


def coded_inputs(bits: int) -> Callable[[nn.Module], nn.Module]:
    """Return what makes linear layers keep their input in `bits` an element."""

    def prepare(model: nn.Module) -> nn.Module:
        return fxmem.convert(with_linear_layers(model), {nn.Linear: partial(coded, bits)}).model

    return prepare


def residuals(preset: str, attention: int | None = None) -> Callable[[nn.Module], nn.Module]:
    """Return what compiles a model with encoded residuals; kernels are torch's own.

    Args:
        attention: bits of queries, keys and values, if not the preset's.
    """
    options = {"preset": preset, "inner": "aot_eager"}
    if attention is not None:
        options["rules"] = {"encode": {"attention": attention}}
    return lambda model: torch.compile(model, backend="fxmem", options=options)


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
    **{f"{kind} 20%": sketched(0.2, kind) for kind in ("hadamard", "crs", "crs_norm")},
    **{f"{bits}-bit inputs": coded_inputs(bits) for bits in (8, 4, 2)},
    "8-bit residuals": residuals("balanced"),
    "4-bit residuals": residuals("compact"),
}
ATTENTION: Ways = {
    "balanced": residuals("balanced"),
    "compact": residuals("compact"),
    **{f"compact, attention {bits} bits": residuals("compact", bits) for bits in (8, 5, 4, 3)},
}
GROUPS = {"activations": ACTIVATIONS, "linear": LINEAR, "attention": ATTENTION}
WAYS: Ways = {EXACT: lambda model: model, **ACTIVATIONS, **LINEAR, **ATTENTION}


class Log:
    """The kept bytes of each way, and its losses by seed, written down after every run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.path = args.json
        self.about = {"torch": torch.__version__, "steps": args.steps}
        self.results: dict[str, dict] = {}
        if self.path and self.path.exists():
            written = json.loads(self.path.read_text())
            self.results = written.pop("results")
            if written != self.about:
                raise ValueError(f"{self.path} is of other runs: {written}, not {self.about}")

    def way(self, task: str, way: str) -> dict:
        """What is known of a way."""
        return self.results.setdefault(task, {}).setdefault(way, {"losses": {}})

    def write(self) -> None:
        """Bring the file up to date."""
        if self.path:
            text = json.dumps({**self.about, "results": self.results}, indent=1)
            self.path.write_text(text + "\n")


def fill(log: Log, task: str, args: argparse.Namespace, bar: tqdm) -> None:
    """Run what the log lacks of a task."""
    training = TRAININGS[task](args.steps)
    for way in args.ways:
        known = log.way(task, way)
        known["kept"] = known.get("kept") or kept_bytes(training, WAYS[way])
    for seed in range(args.seeds):
        for way in args.ways:
            bar.set_postfix_str(f"{task}, {way}")
            found = log.way(task, way)["losses"]
            if str(seed) not in found:
                found[str(seed)] = train(training, seed, WAYS[way])
                torch.compiler.reset()
                log.write()
            bar.update()


def table(found: dict[str, dict], ways: list[str]) -> list[tuple[str, ...]]:
    """Return a row a way: kept, mean loss, mean difference to exact, half its interval."""
    exact = _losses(found[EXACT])
    rows = []
    for way in ways:
        loss = _losses(found[way])
        off = loss - exact[: len(loss)]
        half = stats.t.ppf(0.975, len(off) - 1) * off.std().item() / len(off) ** 0.5
        shown = ("", "") if way == EXACT else (f"{off.mean():+.4f}", f"± {half:.4f}")
        rows.append((way, f"{found[way]['kept'] / MiB:.2f}", f"{loss.mean():.4f}", *shown))
    return rows


def _losses(found: dict) -> torch.Tensor:
    by_seed = sorted(found["losses"].items(), key=lambda item: int(item[0]))
    return torch.tensor([loss for _, loss in by_seed], dtype=torch.float64)


def markdown(task: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table for the documents."""
    lines = [f"| {task} | {' | '.join(HEAD[1:])} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", choices=TRAININGS, default=["text", "digits"])
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
