"""Training in integers on real data: held-out score beside float32, kept bytes, step time.

    python benchmarks/integer_training.py [--task digits text] [--seeds 5] [--steps N]
        [--ways ...] [--json PATH]
    pip install --no-deps -r requirements/peers.txt   # to have torchao and wageubn in it

Ways that share a seed share the first weights and the batches, so that differences are paired;
their 95 % interval is Student's. A rule's name is a graph rule with Adam, weights of one bit
clipped to ±1, the first layer and the last left real; "wageubn in full" is fxmem.nn.quantized with
its optimizer; "weights: ..." is the weight manager with Adam, every activation real. "bits" are
what a layer keeps of an element of its input, measured on one layer alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from integer_bits import kept_bits
from integer_peers import missing, peers, wageubn_faults
from integer_tasks import TASKS, Task, loss
from integer_ways import REAL, WAYS, Run, Way
from scipy import stats

from fxmem.measure import kept
from fxmem.measure.text import aligned

COLUMNS = ("difference", "95 %", "bits", "kept KiB", "ms a step")
# What the papers say of other data and networks: the order alone can be compared.
PUBLISHED = {
    "dorefa:8,8,8": "-1.7 points, AlexNet",
    "dorefa:1,2,6": "-6.5 points, AlexNet",
    "binarynet": "0.96 % error, MNIST",
    "weights: binaryconnect": "1.15 % error, MNIST",
}


def trained(run: Run, task: Task, seed: int, steps: int) -> list[float]:
    """Held-out score, kept bytes, and seconds a step."""
    seconds = []
    for x, y in islice(task.batches(seed), steps):
        start = time.process_time()
        for optimizer in run.optimizers:
            optimizer.zero_grad()
        loss(run.call(x), y).backward()
        for optimizer in run.optimizers:
            optimizer.step()
        seconds.append(time.process_time() - start)
    size = kept(lambda: run.call(x)).nbytes
    for network in {run.model, run.call}:
        getattr(network, "eval", lambda: None)()
    with torch.no_grad(), run.evaluation():
        return [task.judge(run.call), size, statistics.median(seconds)]


def row(way: str, bits: float, found: list[list], real: list[list], places: int) -> tuple[str, ...]:
    """Means, and the paired difference to float32 with its interval."""
    score, size, seconds = (statistics.mean(column) for column in zip(*found, strict=True))
    apart = [a[0] - b[0] for a, b in zip(found, real, strict=True)]
    off = f"{statistics.mean(apart):+.{places}f}", f"± {half(apart):.{places}f}"
    shown = f"{score:.{places}f}", *(("", "") if way == REAL else off)
    return way, *shown, f"{bits:.1f}", f"{size / 1024:.0f}", f"{seconds * 1e3:.1f}"


def anchors(found: dict[str, list[list]], task: Task) -> str:
    """Published figures beside the mean scores of the ways that have them."""
    means = {way: statistics.mean(run[0] for run in runs) for way, runs in found.items()}
    rows = [
        (way, text, f"{means[way]:.{task.places}f}")
        for way, text in PUBLISHED.items()
        if way in means
    ]
    return aligned([("", "published", task.score), *rows])


def half(values: list[float]) -> float:
    """Half the width of the mean's 95 % interval; of a single value nan."""
    if len(values) < 2:
        return math.nan
    return stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def all_seeds(task: Task, ways: dict[str, Way], seeds: int, result: dict, save: Callable) -> None:
    """Train in every way with every seed, but for the runs that the result has already."""
    for seed, (way, prepare) in itertools.product(range(seeds), ways.items()):
        runs = result["runs"].setdefault(way, [])
        if len(runs) <= seed:
            runs.append(trained(prepare(task, seed), task, seed, result["steps"]))
            print(f"seed {seed}, {way}: {runs[-1]}", flush=True)
            save()


def show(name: str, task: Task, result: dict, seeds: int) -> None:
    """Print a task's tables."""
    found = {
        way: runs[:seeds]
        for way, runs in result["runs"].items()
        if way in result["bits"] and len(runs) >= seeds
    }
    rows = [
        row(way, result["bits"][way], runs, found[REAL], task.places) for way, runs in found.items()
    ]
    print(f"\n{name}, {result['steps']} steps, {seeds} seeds")
    print(aligned([("", task.score, *COLUMNS), *rows]))
    print(f"\n{anchors(found, task)}\n", flush=True)


def is_linear(task: str, way: str) -> bool:
    """Whether what is measured alone is a linear layer: torchao has no convolution."""
    return task == "text" or way.startswith("torchao")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="default: the task's own")
    known = {**WAYS, **peers("digits"), **peers("text")}
    parser.add_argument("--ways", nargs="+", choices=known, help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--json", type=Path, help="write the figures here; runs in it are not repeated"
    )
    return parser.parse_args()


def chosen(task: str, names: list[str] | None) -> dict[str, Way]:
    """The ways that are asked for and float32, which all are compared with."""
    known = {**WAYS, **peers(task)}
    return {way: known[way] for way in known if way == REAL or way in (names or known)}


def one_task(name: str, asked: argparse.Namespace, results: dict, save: Callable) -> None:
    """Train a task's network and print its tables."""
    task, ways = TASKS[name](), chosen(name, asked.ways)
    steps = asked.steps or task.steps
    result = results.setdefault(name, {"steps": steps, "bits": {}, "runs": {}})
    if result["steps"] != steps:
        raise SystemExit(f"{asked.json} has runs of {result['steps']} steps, not {steps}")
    all_seeds(task, ways, asked.seeds, result, save)
    result["bits"] |= {way: kept_bits(ways[way], is_linear(name, way)) for way in ways}
    save()
    show(name, task, result, asked.seeds)


def main() -> None:
    """Train; print the tables and what could not be in them; write the figures."""
    asked = parse()
    torch.set_num_threads(asked.threads)
    known = asked.json is not None and asked.json.exists()
    results = json.loads(asked.json.read_text()) if known else {"tasks": {}}
    notes = [f"{name} is not installed: no row of it" for name in missing()]
    notes += [] if "wageubn" in missing() else list(wageubn_faults())
    results.update(torch=torch.__version__, notes=notes)

    def save() -> None:
        if asked.json:
            asked.json.write_text(json.dumps(results, indent=1) + "\n")

    for name in asked.task:
        one_task(name, asked, results["tasks"], save)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
