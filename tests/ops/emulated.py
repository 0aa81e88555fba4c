"""The CUDA kernels as operators of the CPU, in namespace fxmem_emulated: see emulator.h."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
# So few that the kernels' loops over what the grid leaves are gone through, too.
MOST_BLOCKS = 3
DEFINED = re.compile(r"TORCH_STABLE_ONLY|TORCH_TARGET_VERSION=\w+")
# In which files, what, instead of what.
CHANGES = (
    ("cuda/*.cu", r"IMPL\(fxmem, CUDA, m\)", "IMPL(fxmem_emulated, CPU, m)"),
    ("schema.cpp", r"LIBRARY\(fxmem, m\)", "LIBRARY(fxmem_emulated, m)"),
    ("functions.h", r"#ifdef __CUDACC__", "#if 1"),
    ("cuda/launch.h", r"#include <torch/csrc/stable/(accelerator|macros).h>", ""),
    ("cuda/launch.h", r"kMostBlocks = 1 << 20", f"kMostBlocks = {MOST_BLOCKS}"),
    ("cuda/launch.h", r"const int device = [^}]*?(?=constexpr int64_t kMostBlocks)", ""),
    (
        "cuda/launch.h",
        r"kernel<<<[^}]*",
        "emulator::launch(blocks, kThreads, [&] { kernel(arguments...); });\n",
    ),
)


def missing() -> str:
    """Return what is not here that building takes; "" where all is."""
    if shutil.which("c++") is None:
        return "needs a C++ compiler"
    return "" if headers() else "needs CUDA's headers"


def headers() -> Path | None:
    """Return where CUDA's headers are; None where they are not."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parents[1]]
    for home in filter(None, [*homes, "/usr/local/cuda"]):
        if Path(home, "include", "cuda_fp16.h").exists():
            return Path(home, "include")
    return None


def build(folder: Path) -> Path:
    """Return the library, built in this folder."""
    shutil.copytree(ROOT / "native", folder / "native")
    for pattern, what, instead in CHANGES:
        changed = 0
        for path in (folder / "native").glob(pattern):
            text, count = re.subn(what, instead, path.read_text())
            path.write_text(text)
            changed += count
        assert changed, f"nothing in native/{pattern} matches {what}"
    sources = [folder / "native" / "schema.cpp", *(folder / "native" / "cuda").glob("*.cu")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "libemulated.so"
    link = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu"]
    subprocess.run(["c++", "-shared", "-o", library, *objects, *link], check=True)
    return library


def compiled(source: Path) -> Path:
    """Return the object of one source."""
    flags = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-w", "-x", "c++"]
    flags += [f"-D{name}" for name in DEFINED.findall((ROOT / "CMakeLists.txt").read_text())]
    flags += ["-include", str(Path(__file__).parent / "emulator.h")]
    flags += [f"-I{TORCH / 'include'}", f"-I{headers()}"]
    object = source.with_suffix(".o")
    subprocess.run(["c++", *flags, "-c", source, "-o", object], check=True)
    return object
