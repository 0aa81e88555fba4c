"""torch's compile caches stay valid: reused by the next process, and by no other policy."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .training import BOUNDS

PROGRAM = """
import json, sys
import torch
import fxmem
from fxmem.backend import fxmem as backend
from torch._dynamo.utils import counters

for options in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    layers = torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)
    model = torch.nn.Sequential(*layers)
    step = torch.compile(model, backend=backend, options=options)
    step(torch.randn(64, 64)).square().sum().backward()
    print(json.dumps({
        "gradient": model[0].weight.grad.flatten().tolist(),
        "graphs": counters["inductor"]["fxgraph_cache_hit"],
        "pairs": counters["aot_autograd"]["autograd_cache_hit"],
    }))
"""


def in_a_new_process(cache: Path, *options: dict) -> list[dict]:
    """Train one step under each of these options; return gradients, and what caches had."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()[-len(options) :]]


def test_cache(tmp_path):
    policy, exact = ({"preset": preset, "min_bytes": 1024} for preset in ("balanced", "exact"))
    (cold,) = in_a_new_process(tmp_path, policy)
    warm, other = in_a_new_process(tmp_path, policy, exact)
    assert (cold["graphs"], cold["pairs"]) == (0, 0)
    assert warm["graphs"] + warm["pairs"] > 0
    assert warm["gradient"] == cold["gradient"]
    assert (other["graphs"], other["pairs"]) == (0, 0)
    error = sum((a - b) ** 2 for a, b in zip(other["gradient"], cold["gradient"], strict=True))
    truth = sum(a**2 for a in other["gradient"])
    assert 0 < error <= BOUNDS["balanced"] ** 2 * truth
