"""The package as another machine meets it: installed, found by name, built with and without tools.

Builds run on a copy of the sources, so that no test touches the tree's own libraries.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = "fxmem native CMakeLists.txt setup.py pyproject.toml README.md LICENSE".split()
SLOW_IMPORTS = ("sympy", "matplotlib", "transformers", "torch._inductor")


def python(*arguments, cwd, **environment):
    """Run a fresh interpreter outside the tree, so that it sees only what is installed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def copied_sources(folder):
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            junk = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(source, folder / name, ignore=junk)
        else:
            shutil.copy(source, folder / name)
    return folder


def built_wheel(sources, **environment):
    """Build a wheel of ``sources`` and return its path and what was printed."""
    arguments = ("-m", "build", "--wheel", "--no-isolation", "--outdir", sources / "dist")
    run = python(*arguments, cwd=sources, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = (sources / "dist").glob("*.whl")
    return wheel, run.stdout + run.stderr


def contents(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def native_wheel(tmp_path_factory):
    """A wheel built without CUDA, in a tree where another build left a CUDA library behind.

    Of the schemas and empty sources, as many as there are: what those hold, the tree's own build
    has compiled by the same CMakeLists.txt, and what becomes of the library is the question here.
    """
    sources = copied_sources(tmp_path_factory.mktemp("native"))
    for path in (sources / "native").glob("c*/*.cpp"):
        path.write_text("")
    (sources / "fxmem/lib").mkdir(exist_ok=True)
    (sources / "fxmem/lib/libfxmem_cuda.so").touch()
    return built_wheel(sources, FXMEM_CUDA="0")[0]


@pytest.fixture(scope="module")
def bare_wheel(tmp_path_factory):
    """A wheel built where there is no compiler, and what the build printed."""
    sources = copied_sources(tmp_path_factory.mktemp("bare"))
    return built_wheel(sources, PATH=str(sources / "empty"), CXX="")


def test_backend_is_listed_with_no_import_of_fxmem(tmp_path):
    program = (
        "import sys, torch._dynamo as d; assert 'fxmem' in d.list_backends(); "
        "assert 'fxmem' not in sys.modules"
    )
    run = python("-c", program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_entry_point_leads_to_the_backend():
    (entry,) = metadata.entry_points(group="torch_dynamo_backends", name="fxmem")
    assert callable(entry.load())


def test_install_is_editable(tmp_path):
    run = python("-c", "import fxmem; print(fxmem.__file__)", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == ROOT / "fxmem/__init__.py"


def test_import_is_lean(tmp_path):
    """Counted beside a bare ``import torch``, which brings what it likes."""
    program = (
        "import sys, json, torch; before = set(sys.modules); import fxmem; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = python("-c", program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    brought = json.loads(run.stdout)
    assert "fxmem" in brought
    assert [name for name in SLOW_IMPORTS if name in brought] == []


def test_wheel_serves_every_python_and_torch(native_wheel):
    archive = zipfile.ZipFile(native_wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    message = Parser().parsestr(archive.read(name).decode())
    core = [line for line in message.get_all("Requires-Dist") if "extra ==" not in line]
    assert re.search(r"-py3-none-linux_\w+\.whl$", native_wheel.name)
    assert message["Requires-Python"] == ">=3.10"
    assert sorted(core) == ["numpy", "sympy", "torch>=2.11"]
    assert message.get_all("Provides-Extra") == ["demo", "test", "dev"]


def test_wheel_holds_what_was_built_and_nothing_left_over(native_wheel):
    assert {"fxmem/py.typed", "fxmem/lib/libfxmem_cpu.so"} <= contents(native_wheel)
    assert "fxmem/lib/libfxmem_cuda.so" not in contents(native_wheel)
    assert {name.split("/")[0].split("-")[0] for name in contents(native_wheel)} == {"fxmem"}


def test_wheel_s_library_is_the_one_that_was_built(native_wheel, tmp_path):
    library = zipfile.ZipFile(native_wheel).extract("fxmem/lib/libfxmem_cpu.so", tmp_path)
    program = f"import torch; torch.ops.load_library({library!r}); torch.ops.fxmem.encode.default"
    run = python("-c", program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_wheel_holds_every_module(native_wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fxmem").rglob("*.py")}
    assert modules <= contents(native_wheel)


def test_without_a_compiler_the_package_builds_and_says_so_once(bare_wheel):
    wheel, printed = bare_wheel
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in contents(wheel))
    assert printed.count("installed without native kernels") == 1


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        ((), {"FXMEM_CUDA": "yes"}, "FXMEM_CUDA is auto, 0 or 1, not 'yes'"),
        (("--cuda",), {"PATH": "", "CXX": ""}, "CUDA kernels were asked for, but CMake was not"),
        (("--no-cuda",), {"CXX": "no-such-c++"}, "the C++ compiler no-such-c++ was not found"),
    ],
)
def test_build_options_are_answered_with_a_sentence(tmp_path, flags, environment, sentence):
    sources = copied_sources(tmp_path)
    run = python("setup.py", "build_ext", *flags, cwd=sources, **environment)
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr


def test_extras_are_pinned():
    """What pyproject.toml asks for by name, requirements/ pins for every Python."""
    pinned = "\n".join(path.read_text() for path in (ROOT / "requirements").glob("*.txt"))
    asked = {re.match(r"[\w-]+", line)[0] for line in metadata.requires("fxmem")} - {"fxmem"}
    assert [name for name in sorted(asked) if not re.search(rf"(?m)^{name}==\S+", pinned)] == []
    assert re.search(r"(?m)^torch==2\.13\.0$", pinned)
