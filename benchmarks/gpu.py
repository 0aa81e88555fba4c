"""All that a GPU can tell: builds or loads the CUDA kernels, runs every test and every benchmark.

    python benchmarks/gpu.py [--out DIR] [--quick] [--only tests codec ...] [--limit SECONDS]

Writes one JSON and one table, anew after each part, and exits with 1 if anything failed. `--only`
runs some parts and leaves what the others found before. Needs no network: torch, numpy, sympy and
pytest, and either nvcc or a library that was built elsewhere in fxmem/lib.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


# Sizes at which a GPU has work to do.
FULL = {
    "codec": [],
    "activation": [],
    "eager": ["--batch", "64", "--tokens", "512"],
    "norms": [],
    "stack": ["--width", "2048"],
    "models": ["--batch", "32"],
    "linear": ["--layers", "12", "--batch", "128"],
    "loss": ["--tokens", "16384", "--classes", "32768", "--width", "1024"],
    "reversible": ["--width", "512", "--batch", "16", "--tokens", "64"],
    "integer": ["--size", "4096"],
}
FEW = ["--rounds", "4"]
QUICK = {
    **{name: [*options, *FEW] for name, options in FULL.items()},
    "activation": ["--quick"],
    "stack": ["--quick", "--rows", "inductor", "checkpoint", "exact", "balanced", "compact"],
    "models": ["--models", "llama", "bert", *FEW],
    "linear": ["--layers", "2", *FEW],
    "reversible": ["--layers", "8", *FEW],
}


def main() -> int:
    """Run everything; return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    names = ["tests", *FULL]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--limit", type=float, help="seconds that a part may take")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; this script has nothing to measure")
    args.out.mkdir(parents=True, exist_ok=True)
    prepare()
    properties = torch.cuda.get_device_properties(0)
    about = {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
    }
    found = before(args.out, about)
    for name in args.only:
        found[name] = run(name, command(name, args.quick), args.out, args.limit)
        write(args.out, about, {name: found[name] for name in names if name in found})
    print((args.out / "gpu.txt").read_text(), end="")
    return any(found[name]["exit"] for name in args.only)


def before(out: Path, about: dict[str, str]) -> dict[str, dict]:
    """Return what was found before on such a machine, with such a torch."""
    path = out / "gpu.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["parts"] if found.items() >= about.items() else {}


def write(out: Path, about: dict[str, str], found: dict[str, dict]) -> None:
    """Write the JSON and the table."""
    (out / "gpu.json").write_text(json.dumps({**about, "parts": found}, indent=1) + "\n")
    (out / "gpu.txt").write_text(table(about, found) + "\n")


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


def command(name: str, quick: bool) -> list[str]:
    """Return what a part gives to Python; `{json}` stands for where its figures go."""
    if name == "tests":
        return ["-m", "pytest", "-q", "-m", "cuda"]
    options = (QUICK if quick else FULL)[name]
    return [f"benchmarks/{name}.py", "--device", "cuda", "--json", "{json}", *options]


def run(name: str, command: list[str], out: Path, limit: float | None) -> dict:
    """Run one part; return its exit status, its seconds, what it printed last and its figures."""
    print(f"{name} …", file=sys.stderr, flush=True)
    figures = out / f"gpu-{name}.json"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = time.monotonic()
    status, output = finished(
        [sys.executable, *(word.format(json=figures) for word in command)],
        os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        limit,
    )
    found = {"exit": status, "seconds": round(time.monotonic() - start, 1)}
    found["output"] = output.splitlines()[-80:]
    if figures.exists():
        found["figures"] = json.loads(figures.read_text())
        figures.unlink()
    return found


def finished(command: list[str], environment: dict[str, str], limit: float | None):
    """Return the exit status and the output of a command, stopped with all that it began."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return 124, output
        return process.returncode, output


def table(about: dict[str, str], found: dict[str, dict]) -> str:
    """Return one page: the machine, then what every part printed."""
    lines = [f"{about['device']} (sm_{about['capability']}), torch {about['torch']}"]
    for name, part in found.items():
        state = "ok" if part["exit"] == 0 else f"FAILED with exit status {part['exit']}"
        lines += ["", f"{name}: {state}, {part['seconds']} s", *part["output"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
