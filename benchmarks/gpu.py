"""All that a GPU can tell: builds or loads the CUDA kernels, runs every test and every benchmark.

    python benchmarks/gpu.py [--out DIR] [--quick] [--only tests codec ...] [--limit SECONDS]

Writes one JSON and one table, anew after each part, a log of each part as it runs, and exits with 1
if anything failed or did not fit. `--only` runs some parts and leaves what DIR has of the others.
The parts together get 500 seconds (`--limit`): the one that they end in is cut short with what it
has, and the rest are named. Where a command may take ten minutes, and half an hour is all:

    python benchmarks/gpu.py --out DIR --only tests
    python benchmarks/gpu.py --out DIR --quick --only codec norms activation integer loss
    python benchmarks/gpu.py --out DIR --quick --only stack reversible

Needs no network: torch, numpy, sympy and pytest, and either nvcc, CMake and a C++ compiler or a
library in fxmem/lib that was built elsewhere for this GPU (`CUDAARCHS=90-real` for an sm_90); one
that does not run here is built anew. Parts that need transformers are left out where it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARY = ROOT / "fxmem" / "lib" / "libfxmem_cuda.so"

# Sizes at which a GPU has work to do; what takes little time first.
FULL = {
    "codec": [],
    "norms": [],
    "activation": [],
    "integer": ["--size", "4096"],
    "loss": ["--tokens", "16384", "--classes", "32768", "--width", "1024"],
    "eager": ["--batch", "64", "--tokens", "512"],
    "stack": ["--width", "2048"],
    "reversible": ["--width", "512", "--batch", "16", "--tokens", "64"],
    "linear": ["--layers", "12", "--batch", "128"],
    "models": ["--batch", "32"],
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
NEEDS = dict.fromkeys(["eager", "linear", "models"], "transformers")
LEAST = 10.0  # seconds with which a part may be begun, and in which one that is stopped sums up
TRIAL = """
import torch
from fxmem import ops
assert "cuda" in ops.NATIVE, "the library was not loaded"
ops.pack(torch.ones(8, device="cuda"), 1).cpu()
"""
ERROR = re.compile(r"^\S*Error\b|\berror:|\bfatal\b|slow reference operators on cuda")


def main() -> int:
    """Run what fits; return 1 if a part failed or did not."""
    end = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    names = ["tests", *FULL]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    seconds = "seconds that all may take together"
    parser.add_argument("--limit", type=float, default=500.0, help=seconds)
    args = parser.parse_args()
    end += args.limit
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; this script has nothing to measure")
    args.out = args.out.resolve()  # parts run in the repository's folder
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell's background has it ignored, and what is begun there, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(args.out, end)
    properties = torch.cuda.get_device_properties(0)
    about = {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
    }
    found = before(args.out, about)
    asked = [name for name in names if name in args.only]
    while asked and time.monotonic() + LEAST < end:
        name = asked.pop(0)
        found[name] = run(name, command(name, args.quick), args.out, end)
        write(args.out, about, {name: found[name] for name in names if name in found})
    if (args.out / "gpu.txt").exists():
        print((args.out / "gpu.txt").read_text(), end="")
    if asked:
        print(f"no time was left for: --only {' '.join(asked)}")
    return bool(asked) or any(found[name]["exit"] for name in args.only)


def before(out: Path, about: dict[str, str]) -> dict[str, dict]:
    """Return what was found before on such a machine, with such a torch."""
    path = out / "gpu.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["parts"] if found.items() >= about.items() else {}


def write(out: Path, about: dict[str, str], found: dict[str, dict]) -> None:
    """Write the JSON and the table."""
    (out / "gpu.json").write_text(json.dumps({**about, "parts": found}, indent=1) + "\n")
    (out / "gpu.txt").write_text(table(about, found) + "\n")


def prepare(out: Path, end: float) -> None:
    """Build the kernels where none run on this GPU, and let torch find the backend by its name."""
    major, minor = torch.cuda.get_device_capability()
    kinds = os.environ.setdefault("CUDAARCHS", f"{major}{minor}-real")
    log = out / "gpu-build.log"
    if not LIBRARY.exists() or finished(["-c", TRIAL], log, end):
        why = complaint(log) if LIBRARY.exists() else "there is none"
        say(f"no CUDA kernels that run here ({why}): building them for {kinds} …")
        build = ["setup.py", "--quiet", "build_ext", "--inplace", "--cuda"]
        if finished(build, log, end) or finished(["-c", TRIAL], log, end):
            sys.exit(
                f"no CUDA kernels for this GPU with CUDAARCHS={kinds}, see {log}: {complaint(log)}"
            )
    sys.path.insert(0, str(ROOT))
    if "fxmem" not in torch._dynamo.list_backends():
        # Metadata beside the sources is enough for an entry point, without an install.
        if finished(["setup.py", "--quiet", "egg_info"], out / "gpu-egg_info.log", end):
            say('setup.py egg_info failed: what asks for backend="fxmem" by name will, too')


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def complaint(log: Path) -> str:
    """Return the first line of a log that speaks of an error, else its last."""
    lines = log.read_text(errors="replace").splitlines() or ["no word"]
    return next(filter(ERROR.search, lines), lines[-1])


def command(name: str, quick: bool) -> list[str]:
    """Return what a part gives to Python; `{json}` stands for where its figures go."""
    if name == "tests":
        return ["-m", "pytest", "-q", "-m", "cuda", *map(str, asking())]
    options = (QUICK if quick else FULL)[name]
    return [f"benchmarks/{name}.py", "--device", "cuda", "--json", "{json}", *options]


def asking() -> list[Path]:
    """Return the files whose tests ask for a GPU; others may import what is not installed here."""
    # Most take the mark with a device from the list that has it.
    mark = re.compile(r"\bmark\.cuda\b|\bDEVICES\b")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in files if mark.search(path.read_text())]


def run(name: str, command: list[str], out: Path, end: float) -> dict:
    """Run one part; return its exit status, its seconds, what it printed last and its figures."""
    needed = NEEDS.get(name, "torch")
    if importlib.util.find_spec(needed) is None:
        return {"exit": None, "seconds": 0.0, "output": [f"{needed} is not installed"]}
    say(f"{name} …")
    figures, log = out / f"gpu-{name}.json", out / f"gpu-{name}.log"
    start = time.monotonic()
    status = finished([word.format(json=figures) for word in command], log, end)
    found = {"exit": status, "seconds": round(time.monotonic() - start, 1)}
    found["output"] = log.read_text(errors="replace").splitlines()[-80:]
    if figures.exists():
        found["figures"] = json.loads(figures.read_text())
        figures.unlink()
    return found


def finished(arguments: list[str], log: Path, end: float) -> int:
    """Return Python's exit status, or 124 where the time ended; nothing that it began is left.

    What it prints is in the log as it prints it, so that it is there whatever ends this.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            return process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGINT)  # pytest then tells what failed so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LEAST)
            return 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def table(about: dict[str, str], found: dict[str, dict]) -> str:
    """Return one page: the machine, then what every part printed."""
    lines = [f"{about['device']} (sm_{about['capability']}), torch {about['torch']}"]
    for name, part in found.items():
        failed = f"FAILED with exit status {part['exit']}"
        state = {0: "ok", None: "left out", 124: "CUT SHORT"}.get(part["exit"], failed)
        lines += ["", f"{name}: {state}, {part['seconds']} s", *part["output"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
