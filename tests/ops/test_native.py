"""The native library itself: schemas, what it imports, dispatch, threads, and doing without it."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fxmem import ops
from fxmem.ops import native

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif("cpu" not in ops.NATIVE, reason="the native library is not built")

SWEEP = """
import sys; sys.path.insert(0, "tests")
import torch
from samples import sweep
from fxmem import ops
from fxmem.ops import reference
for sample in sweep():
    got, wanted = sample(), sample(getattr(reference, sample.op))
    pairs = zip(got, wanted) if isinstance(got, tuple) else [(got, wanted)]
    assert all(torch.equal(a, b) for a, b in pairs), sample.name
print(sorted(ops.NATIVE))
"""


def run(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_schemas_agree():
    source = re.sub(r'"\s*"', "", (ROOT / "native" / "schema.cpp").read_text())
    written = re.findall(r'm\.def\(\s*"(\w+)(.*?)"\);', source)
    assert dict(written) == native.SCHEMAS


@built
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_bits(isa):
    # One that this processor lacks falls back to a lesser one: then that is tested again.
    result = run(SWEEP, FXMEM_ISA=isa)
    assert result.returncode == 0, result.stderr


def test_without_the_library_the_reference_serves():
    result = run(SWEEP, FXMEM_NATIVE="0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    assert result.stderr.count("slow reference operators on cpu: FXMEM_NATIVE=0 was set") == 1


def test_opcheck_without_the_library():
    script = """
import sys; sys.path.insert(0, "tests")
import torch
from torch import library
from samples import layouts
from fxmem import ops
for sample in list(layouts())[:8]:
    operator = getattr(torch.ops.fxmem, sample.op).default
    library.opcheck(operator, sample.args, raise_exception=True)
"""
    result = run(script, FXMEM_NATIVE="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("content", [b"\x7fELF of another machine", None], ids=["foreign", "none"])
def test_a_library_that_cannot_be_loaded_is_told_and_done_without(tmp_path, caplog, content):
    if content is not None:
        (tmp_path / "libfxmem_cpu.so").write_bytes(content)
    with caplog.at_level(logging.WARNING, "fxmem"):
        assert not native.load("cpu", tmp_path)
    told = caplog.messages
    assert len(told) == 1 and str(tmp_path) in told[0]
    assert ("does not exist; build it with" if content is None else "another machine") in told[0]


@built
def test_only_the_stable_abi_is_imported():
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) lists what a library imports, and is not installed")
    path = native.DIRECTORY / "libfxmem_cpu.so"
    listing = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True)
    names = [line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()]
    torch_names = {n for n in names if "torch" in n or "c10" in n}
    assert torch_names and all(n.startswith(("aoti_torch_", "torch_")) for n in torch_names)
    assert not [n for n in names if n.startswith(("Py", "_Py"))]


@built
def test_the_sources_compile_against_the_oldest_torch_served(tmp_path):
    """A symbol newer than 2.11 in native/ is an error, and the check itself can fail."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("compiles the sources, for which no C++ compiler is found")
    include = Path(torch.__file__).parent / "include"
    base = [compiler, "-std=c++20", "-fsyntax-only", "-DTORCH_STABLE_ONLY", f"-I{include}"]
    newer = tmp_path / "newer.cpp"
    newer.write_text(
        "#include <torch/csrc/stable/library.h>\n"
        'void f(torch::stable::detail::StableLibrary& m) { m.set_python_module("fxmem"); }\n'
    )

    def compiles(source, version):
        target = f"-DTORCH_TARGET_VERSION={version}"
        return subprocess.run([*base, target, str(source)], capture_output=True).returncode == 0

    oldest, later = "0x020b000000000000", "0x020d000000000000"
    for source in ("schema.cpp", "cpu/codec.cpp", "cpu/masks.cpp"):
        assert compiles(ROOT / "native" / source, oldest)
    assert not compiles(newer, oldest)
    if torch.__version__ >= "2.13":
        assert compiles(newer, later)


def test_threads_give_the_same_result():
    threads = torch.get_num_threads()
    x = torch.randn(1 << 18)
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(ops.encode(x, 4, 64, torch.tensor([5])))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", native.SCHEMAS)
def test_the_reference_serves_devices_without_a_kernel(name):
    importlib.import_module("fxmem.integer")  # whose operators nothing else brings
    # No such device is needed: where there is a kernel of its own, dispatch takes that one first.
    assert torch._C._dispatch_has_kernel_for_dispatch_key(
        f"fxmem::{name}", "CompositeExplicitAutograd"
    )
    built = torch._C._dispatch_has_kernel_for_dispatch_key(f"fxmem::{name}", "CPU")
    assert built == ("cpu" in ops.NATIVE)
