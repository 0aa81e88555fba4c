"""All that a GPU can tell: builds or loads the CUDA kernels, runs every test and every benchmark.

    python benchmarks/gpu.py [--out DIR] [--quick]

Writes one JSON and one table, and exits with 1 if anything failed. Needs no network: torch, numpy,
sympy and pytest, and either nvcc or a library that was built elsewhere in fxmem/lib.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Run everything; return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; this script has nothing to measure")
    args.out.mkdir(parents=True, exist_ok=True)
    prepare()
    found = {name: run(name, command, args.out) for name, command in parts(args).items()}
    properties = torch.cuda.get_device_properties(0)
    about = {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
    }
    (args.out / "gpu.json").write_text(json.dumps({**about, "parts": found}, indent=1) + "\n")
    text = table(about, found)
    (args.out / "gpu.txt").write_text(text + "\n")
    print(text)
    return any(part["exit"] for part in found.values())


def prepare() -> None:
    """Build the kernels where there are none, and let torch find the backend by its name."""
    if not (ROOT / "fxmem" / "lib" / "libfxmem_cuda.so").exists():
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--cuda"],
            cwd=ROOT,
            check=True,
        )
    if "fxmem" not in torch._dynamo.list_backends():
        # Metadata beside the sources is enough for an entry point, without an install.
        subprocess.run([sys.executable, "setup.py", "--quiet", "egg_info"], cwd=ROOT, check=True)


def parts(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each part; `{json}` stands for where its figures go."""
    few = ["--rounds", "4"]
    quick = {
        **dict.fromkeys(("codec", "norms", "loss", "models", "integer"), few),
        "linear": ["--layers", "2", *few],
        **{"stack": ["--quick"], "activation": ["--quick"]},
        "reversible": ["--layers", "4", "8", *few],
    }
    found = {"tests": ["-m", "pytest", "-q", "-m", "cuda"]}
    for name in (
        "codec",
        "activation",
        "eager",
        "norms",
        "stack",
        "models",
        "linear",
        "loss",
        "reversible",
        "integer",
    ):
        command = [f"benchmarks/{name}.py", "--device", "cuda", "--json", "{json}"]
        found[name] = command + (quick.get(name, []) if args.quick else [])
    return found


def run(name: str, command: list[str], out: Path) -> dict:
    """Run one part; return its exit status, its seconds, what it printed last and its figures."""
    print(f"{name} …", file=sys.stderr, flush=True)
    figures = out / f"gpu-{name}.json"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *(word.format(json=figures) for word in command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = {"exit": done.returncode, "seconds": round(time.monotonic() - start, 1)}
    found["output"] = done.stdout.splitlines()[-80:]
    if figures.exists():
        found["figures"] = json.loads(figures.read_text())
        figures.unlink()
    return found


def table(about: dict[str, str], found: dict[str, dict]) -> str:
    """Return one page: the machine, then what every part printed."""
    lines = [f"{about['device']} (sm_{about['capability']}), torch {about['torch']}"]
    for name, part in found.items():
        state = "ok" if part["exit"] == 0 else f"FAILED with exit status {part['exit']}"
        lines += ["", f"{name}: {state}, {part['seconds']} s", *part["output"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
