"""The same text at four depths: what a step keeps if it keeps everything, checkpoints, reverses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from fxmem.demo.depth_drawing import draw_depths
from fxmem.demo.reversible import new_reversible
from fxmem.demo.task import Task, Text
from fxmem.demo.training import Trained, train, variant
from fxmem.demo.ways import Way
from fxmem.measure import Table, measure
from fxmem.measure.text import MiB, aligned

DEPTHS = (12, 24, 48, 96)
TASK = Task(layers=0, width=96, heads=4, tokens=128, batch=4, steps=100, judged=8, rate=2e-3)
TRAINED = "reversible"
# Everything kept comes first: times are ratios to it. The fused step has rate 0: it is only to free
# each gradient, as it does in training.
MODES = {
    "everything kept": {"memory": "none"},
    "checkpoints": {"memory": "checkpoint"},
    TRAINED: {"memory": "reversible"},
    "reversible, fused step": {
        "memory": "reversible",
        "fused_optimizer": partial(torch.optim.SGD, lr=0.0),
    },
}
HEAD = ("layers", "", "kept MiB", "peak MiB", "time", "held-out loss")
NOTE = """\
kept: bytes that the forward leaves for the backward. peak: most bytes of a forward and backward,
gradients of the parameters included: they alone grow with depth where the network is reversible,
unless the optimizer's step is fused into the backward. time: of such a step in eager mode,
interleaved with the one that keeps everything. loss: nats a byte on held-out files, after {steps}
steps of reversible training."""


def run(task: Task, depths: Sequence[int], text: Text) -> dict[int, tuple[Table, Trained]]:
    """Train the reversible network at every depth, and measure it beside the other ways."""
    from tqdm import tqdm

    found = {}
    with tqdm(total=len(depths) * task.steps, unit="step", dynamic_ncols=True) as bar:
        for depth in depths:
            bar.set_description(f"{depth} layers")
            deep = replace(task, layers=depth)

            def tick(loss: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}")
                bar.update()

            trained = train(new_reversible(deep, **MODES[TRAINED]), Way(), deep, text, tick)
            tokens = next(text.batches(deep, seed=1))
            models = {name: new_reversible(deep, **mode) for name, mode in MODES.items()}
            variants = {name: variant(model, deep, tokens) for name, model in models.items()}
            found[depth] = measure(variants, rounds=3), trained
    return found


def report(found: dict[int, tuple[Table, Trained]]) -> str:
    """Return the table that is printed."""
    rows = []
    for depth, (table, trained) in found.items():
        for row in table.rows:
            sizes = (f"{size / MiB:.1f}" for size in (row.kept, row.peak))
            loss = f"{trained.held_out:.3f}" if row.name == TRAINED else ""
            rows.append((str(depth), row.name, *sizes, f"{row.times.ratio:.2f}", loss))
    return aligned([HEAD, *rows])


def write(folder: Path, task: Task, found: dict[int, tuple[Table, Trained]]) -> tuple[Path, Path]:
    """Write picture and figures into ``folder``; return their paths."""
    picture, figures = folder / "reversible.png", folder / "reversible.json"
    draw_depths(picture, found)
    depths = {
        depth: {**table.to_dict(), "held_out": trained.held_out, "losses": trained.losses}
        for depth, (table, trained) in found.items()
    }
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "task": asdict(task)}
    figures.write_text(json.dumps({**about, "depths": depths}, indent=1) + "\n")
    return picture, figures
