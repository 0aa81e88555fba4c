"""Builds the native libraries with CMake; the rest of the packaging is in pyproject.toml.

    python setup.py build_ext --inplace [--cuda | --no-cuda]

puts them into fxmem/lib/. Without a flag FXMEM_CUDA=auto|0|1 decides; auto means "if nvcc is
found". They use torch's stable ABI and no Python.h, so one build serves every Python and torch.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, errors, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
LIBRARIES = Path("fxmem", "lib")


def missing_tool() -> str | None:
    """Say which tool for compiling C++ is absent, or None where all are there."""
    if shutil.which("cmake") is None:
        return "CMake was not found"
    chosen = shlex.split(os.environ.get("CXX", ""))[:1]
    if not any(map(shutil.which, chosen or ["c++", "g++", "clang++"])):
        return f"the C++ compiler {chosen[0]} was not found" if chosen else "no C++ compiler found"
    return None


def torch_folder() -> Path:
    """Find torch without importing it: only its headers and libraries are wanted."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise errors.CompileError(
            "torch's headers are needed to build fxmem, and torch is not installed here: "
            "pip install 'torch>=2.11' first, or leave out --no-build-isolation"
        )
    return Path(spec.origin).parent


class BuildNative(Command):
    """`build_ext`: configure and build with CMake, into the build folder or into the tree."""

    description = "build the native libraries with CMake"
    user_options: ClassVar = [
        ("inplace", "i", "put the libraries into fxmem/lib"),
        ("cuda", None, "build the CUDA kernels, and fail where there is no nvcc"),
        ("no-cuda", None, "leave the CUDA kernels out"),
    ]
    boolean_options: ClassVar = ["inplace", "cuda"]
    negative_opt: ClassVar = {"no-cuda": "cuda"}
    editable_mode = False

    def initialize_options(self):
        self.inplace = False
        self.cuda = None
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))
        self.inplace = self.inplace or self.editable_mode
        asked = os.environ.get("FXMEM_CUDA", "auto") if self.cuda is None else str(int(self.cuda))
        if asked not in ("auto", "0", "1"):
            raise errors.OptionError(f"FXMEM_CUDA is auto, 0 or 1, not {asked!r}")
        self.cuda = asked

    @property
    def output(self) -> Path:
        return ROOT / ("" if self.inplace else self.build_lib) / LIBRARIES

    def run(self):
        missing = missing_tool()
        if missing and self.cuda == "1":
            raise errors.CompileError(f"CUDA kernels were asked for, but {missing}")
        self._remove_former()
        if missing:
            print(
                f"fxmem: {missing}, so it is installed without native kernels; "
                "the slower reference operators serve instead",
                file=sys.stderr,
            )
            return
        build = ROOT / "build" / "native"
        self._cmake("-S", ROOT, "-B", build, *self._definitions())
        self._cmake("--build", build, "--parallel", os.cpu_count() or 1)

    def _definitions(self) -> list[str]:
        return [
            f"-DTORCH_DIR={torch_folder()}",
            f"-DFXMEM_CUDA={self.cuda}",
            f"-DFXMEM_OUTPUT={self.output}",
        ]

    def _remove_former(self):
        """A library of an earlier build, CUDA's above all, must not pass for one of this."""
        for library in self.output.glob("libfxmem_*"):
            library.unlink()

    def _cmake(self, *arguments):
        command = ["cmake", *map(str, arguments)]
        if subprocess.run(command).returncode:
            raise errors.CompileError(f"failed, see above: {shlex.join(command)}")

    def get_source_files(self) -> list[str]:
        native = sorted(path for path in (ROOT / "native").rglob("*") if path.is_file())
        return ["CMakeLists.txt", *(str(path.relative_to(ROOT)) for path in native)]

    def get_outputs(self) -> list[str]:
        built = sorted(self.output.glob("libfxmem_*"))
        return [str(Path(self.build_lib) / LIBRARIES / path.name) for path in built]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.inplace:
            return {}
        return {out: str(LIBRARIES / Path(out).name) for out in self.get_outputs()}


class NativeDistribution(Distribution):
    """Has native code, although no extension module: `build` then runs `build_ext`."""

    def has_ext_modules(self) -> bool:
        return True


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for what its libraries depend on: the platform, and no Python's ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = "any" if missing_tool() else super().get_tag()[2]
        return "py3", "none", platform


setup(
    distclass=NativeDistribution,
    cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPythonWheel},
)
