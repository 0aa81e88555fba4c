"""Who may import whom, as `rooms.py` says, and how long a file may be."""

import ast
import re
import sys
from pathlib import Path

from rooms import EVERYWHERE, ROOMS

ROOT = Path(__file__).parents[1]
LONGEST = 250

STABLE_HEADERS = (
    r"torch/csrc/stable/",
    r"torch/headeronly/",
    r"torch/csrc/inductor/aoti_torch/c/",
    r"(?!Python\.h)[\w.]+$",  # the C++ standard library, the compiler's own, the CUDA runtime
)


def within(name, roots):
    return any(name == root or name.startswith(root + ".") for root in roots)


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """Return the row for ``module``: its own, or the nearest above it; None where there is none."""
    if module in ROOMS:
        return ROOMS[module]
    parent = module.rpartition(".")[0]
    while parent != "fxmem":
        for row in (parent + ".*", parent):
            if row in ROOMS:
                return ROOMS[row]
        parent = parent.rpartition(".")[0]
    return None


def modules_under(root):
    """Dotted name and path of every module, so that ``from fxmem import x`` is told from a name."""
    return {module_name(path, root): path for path in sorted((root / "fxmem").rglob("*.py"))}


def imported(tree, module, is_package, known):
    """Yield line and full name of whatever ``tree`` imports, and ``torch.…`` that it spells out."""
    here = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                is_name = source.startswith("fxmem") and full not in known
                yield node.lineno, source if is_name else full
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
            yield node.lineno, ast.unparse(node)


def import_offences(root):
    """Say for every forbidden import who, where and what."""
    modules = modules_under(root)
    for module, path in modules.items():
        room = room_of(module)
        if room is None:
            yield f"{module} has no row in ROOMS: say what it may import"
            continue
        tree = ast.parse(path.read_text())
        allowed = (*room.may, *EVERYWHERE, *sys.stdlib_module_names, module)
        names = imported(tree, module, path.name == "__init__.py", modules)
        for line, name in dict.fromkeys(names):
            if not within(name, allowed) or within(name, room.never):
                yield f"{path.relative_to(root)}:{line} imports {name}"


def include_offences(root):
    """Native code knows the stable ABI, the CUDA runtime and its own headers, nothing else."""
    sources = [path for path in sorted((root / "native").rglob("*.*")) if path.is_file()]
    own = {path.name for path in sources}
    for path in sources:
        for kind, header in re.findall(r'(?m)^\s*#\s*include\s*([<"])([^>"]+)', path.read_text()):
            stable = any(re.match(pattern, header) for pattern in STABLE_HEADERS)
            if not (stable if kind == "<" else Path(header).name in own):
                yield f"{path.relative_to(root)} includes {header}"


def length_offences(root):
    for folder in ("fxmem", "native", "tests", "benchmarks", "examples"):
        for path in sorted((root / folder).rglob("*")):
            is_code = path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")
            if is_code and "generated" not in path.parts:
                lines = len(path.read_text().splitlines())
                if lines > LONGEST:
                    yield f"{path.relative_to(root)} has {lines} lines; {LONGEST} are allowed"


def test_imports_go_one_way():
    assert list(import_offences(ROOT)) == []


def test_native_code_keeps_to_the_stable_abi():
    assert list(include_offences(ROOT)) == []


def test_files_are_short():
    assert list(length_offences(ROOT)) == []


# What each check must catch, so that none passes because it looks at nothing.
OFFENCES = {
    "fxmem/__init__.py": "import os",
    "fxmem/plan.py": "from torch.fx import Node",
    "fxmem/policy.py": "from . import plan",
    "fxmem/stray.py": "",
    "fxmem/activations/table.py": "import torch",
    "fxmem/ops/mask.py": "import torch\nfrom torch import fx",
    "fxmem/ops/codec.py": "import torch\n\ndef f(): return torch.fx.Graph()",
    "fxmem/passes/pair/__init__.py": "from . import bits, residuals",
    "fxmem/passes/pair/bits.py": "from ..rule import Rule",
    "fxmem/passes/pair/residuals.py": "from fxmem.passes.pair import bits",
    "fxmem/passes/joint/cut.py": "from ..pair.bits import pack",
    "fxmem/passes/rule.py": "from fxmem.compat import anything",
    "fxmem/compat.py": "import torch",
}


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_forbidden_imports_are_found(tmp_path):
    write(tmp_path, OFFENCES)
    assert sorted(import_offences(tmp_path)) == [
        "fxmem.stray has no row in ROOMS: say what it may import",
        "fxmem/activations/table.py:1 imports torch",
        "fxmem/ops/codec.py:3 imports torch.fx",
        "fxmem/ops/codec.py:3 imports torch.fx.Graph",
        "fxmem/ops/mask.py:2 imports torch.fx",
        "fxmem/passes/joint/cut.py:1 imports fxmem.passes.pair.bits",
        "fxmem/passes/pair/residuals.py:1 imports fxmem.passes.pair.bits",
        "fxmem/plan.py:1 imports torch.fx.Node",
        "fxmem/policy.py:1 imports fxmem.plan",
    ]


def test_forbidden_includes_are_found(tmp_path):
    good = '#include <vector>\n#include <cuda_runtime.h>\n#include "../bits.h"\n'
    bad = "#include <Python.h>\n#include <ATen/ATen.h>\n# include <c10/util/Half.h>\n"
    write(tmp_path, {"native/bits.h": "", "native/cpu/a.cpp": good + bad + '#include "gone.h"'})
    assert [offence.split()[-1] for offence in include_offences(tmp_path)] == [
        "Python.h",
        "ATen/ATen.h",
        "c10/util/Half.h",
        "gone.h",
    ]


def test_long_files_are_found_and_generated_ones_let_be(tmp_path):
    long = "x = 1\n" * (LONGEST + 1)
    write(tmp_path, {"fxmem/a.py": long, "fxmem/b.py": "\n", "native/generated/c.h": long})
    assert list(length_offences(tmp_path)) == ["fxmem/a.py has 251 lines; 250 are allowed"]
