"""Training in integers on scikit-learn's digits: accuracy beside float32, kept bytes, step time.

    python benchmarks/integer_training.py [--seeds 5] [--steps 150] [--ways ...] [--json PATH]

A small convolutional network; a fifth of the digits is held out. Ways that share a seed share the
first weights and the batches, so the differences are paired; their 95 % interval is Student's.
"integers in full" is fxmem.nn.quantized with its own optimizer; the rest is a graph rule and Adam,
with weights of one bit clipped to ±1. First and last layer stay real but in the full one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import stats
from torch import fx, nn

import fxmem
from fxmem.measure import kept
from fxmem.measure.text import aligned
from fxmem.nn import quantized

REAL, FULL = "float32", "integers in full"
RULES = ("int8", "wageubn8", "dorefa:8,8,8", "dorefa:1,2,6", "binarynet", "xnor")
WAYS = (REAL, *RULES, FULL)
HEAD = ("", "held-out %", "difference", "95 %", "kept KiB", "ms a step")
Batch = tuple[torch.Tensor, torch.Tensor]


def digits() -> tuple[Batch, Batch]:
    """Images [n, 1, 8, 8] within ±1 and labels: for training, and held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = order[len(order) // 5 :], order[: len(order) // 5]
    train, held_out = ((images[part], labels[part]) for part in parts)
    return train, held_out


def network(seed: int) -> nn.Sequential:
    """Four convolutions with batch norms, and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for given, out, stride in ((1, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(given, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def signed(layers: nn.Sequential) -> nn.Sequential:
    """The order that signs need: a layer's input is a batch norm's output, not a rectified one."""
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.ReLU)))


def prepared(way: str, seed: int) -> tuple[nn.Module, Callable, torch.optim.Optimizer]:
    """The model, what runs it, and its optimizer."""
    model = network(seed)
    if way == FULL:
        quantized.config_network(model, ".*", quantized.QuantConfig())
        generator = torch.Generator().manual_seed(seed)
        return model, model, quantized.SGD(model.parameters(), lr=0.2, generator=generator)
    model = signed(model) if way in ("binarynet", "xnor") else model
    graph = fx.symbolic_trace(model)
    # Where a layer keeps codes, relu is left to keep its output: one bit is as good.
    rules = {"integer": way, "quantized_gradient": {"bits": 1}}
    run = graph if way == REAL else fxmem.transform(graph, {"rules": rules})
    return model, run, torch.optim.Adam(model.parameters(), 2e-3)


def batches(train: Batch, seed: int, steps: int) -> Iterator[Batch]:
    """Random batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(train[1]), (64,), generator=generator)
        yield train[0][chosen], train[1][chosen]


def trained(way: str, seed: int, steps: int, data: tuple[Batch, Batch]) -> tuple[float, ...]:
    """Held-out accuracy in per cent, kept bytes, and seconds a step."""
    (train, (images, labels)), seconds = data, []
    model, run, optimizer = prepared(way, seed)
    for x, y in batches(train, seed, steps):
        start = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(run(x), y).backward()
        optimizer.step()
        if way in ("binarynet", "xnor"):
            clip(model)
        seconds.append(time.process_time() - start)
    size = kept(lambda: run(train[0][:64])).nbytes
    for module in (model, run):
        module.eval()
    with torch.no_grad():
        right = (run(images).argmax(1) == labels).float().mean().item()
    return 100 * right, size, statistics.median(seconds)


@torch.no_grad()
def clip(model: nn.Module) -> None:
    """Keep the masters of binary weights where their gradient is."""
    for p in model.parameters():
        if p.dim() > 1:
            p.clamp_(-1, 1)


def row(way: str, found: list[tuple], real: list[tuple]) -> tuple[str, ...]:
    """Means, and the paired difference to float32 with its interval."""
    accuracy, size, seconds = (statistics.mean(column) for column in zip(*found, strict=True))
    apart = [a[0] - b[0] for a, b in zip(found, real, strict=True)]
    numbers = (f"{accuracy:.1f}", f"{statistics.mean(apart):+.1f}", interval(apart))
    return way, *numbers, f"{size / 1024:.0f}", f"{seconds * 1e3:.1f}"


def interval(values: list[float]) -> str:
    """Half the width of the mean's 95 % interval."""
    if len(values) < 2:
        return ""
    wide = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"± {wide:.1f}"


def main() -> None:
    """Train every way with every seed; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data, ways = digits(), [REAL, *(way for way in asked.ways if way != REAL)]
    found: dict[str, list] = {way: [] for way in ways}
    for seed in range(asked.seeds):
        for way in ways:
            found[way].append(trained(way, seed, asked.steps, data))
    print(aligned([HEAD, *(row(way, found[way], found[REAL]) for way in ways)]))
    if asked.json:
        about = {"torch": torch.__version__, "steps": asked.steps, "seeds": asked.seeds}
        asked.json.write_text(json.dumps({**about, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
