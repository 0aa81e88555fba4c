"""The commands on activations: what they print, write, draw and refuse."""

import re
from pathlib import Path

import numpy as np
import pytest

from fxmem import __main__ as commands
from fxmem.activations import store
from fxmem.activations.table import TABLE
from fxmem.commands import gallery, quantize
from fxmem.commands.drawing import points_to

OWN = """
import numpy as np
import torch

def of_numpy(x): return x * np.exp(-x * x / 2)
def of_torch(x): return x * torch.exp(-x * x / 2)
def of_either(x): return x * x / 4
def wrong(x): return x.sum()
def detached(x): return torch.tanh(x).detach()
def a_list(x): return [1, 2]
def lookup(x): return {}["key"]
def far(x): return np.sqrt(x + 9)
def in_place(x): x *= x; return x
def in_place_torch(x): return x.mul_(torch.sigmoid(x))
def whole(x): return np.floor(x).astype(int)
def unreal(x): return x * 1j
def unreal_torch(x): return torch.complex(x, x)
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "my_own_functions.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments):
    status = commands.main(["quantize", *arguments])
    found = capsys.readouterr()
    return status, found.out, found.err


def numbers(line):
    return [float(n) for n in re.findall(r"-?\d+\.\d+", line)]


def test_a_row(capsys):
    status, out, _ = run(capsys, "gelu", "--bits", "2")
    table = store.levels("gelu", 2)
    lines = out.splitlines()
    assert status == 0 and lines[0] == "gelu, 2 bits, best for normal inputs"
    intervals = [numbers(line) for line in lines[3:7]]
    assert np.allclose([level for level, *_ in intervals], table.levels, atol=1e-6)
    assert np.allclose([borders[-1] for _, *borders in intervals[:-1]], table.borders, atol=1e-6)
    own, uniform = (numbers(line) for line in out.strip().splitlines()[-2:])
    assert own[0] == pytest.approx(table.error**0.5, abs=1e-4) and own[0] < uniform[0]
    assert uniform[1] == pytest.approx(0.0406, abs=1e-4) and own[1] > uniform[1]  # as published


def test_weights(capsys):
    np.save("inputs.npy", np.random.default_rng(0).normal(2, 0.1, 10_000))
    status, out, _ = run(capsys, "silu", "--weight", "inputs.npy")
    own, uniform = (numbers(line) for line in out.strip().splitlines()[-2:])
    assert status == 0 and "best for inputs.npy inputs" in out and own[0] < uniform[0] / 10
    _, out, _ = run(capsys, "silu", "--weight", "uniform", "--bits", "1")
    own, uniform = (numbers(line) for line in out.strip().splitlines()[-2:])
    assert own == uniform == pytest.approx([(0.2150 / 20) ** 0.5, 0.2150], abs=1e-4)


def test_files_are_merged(capsys):
    for arguments in (["gelu", "--bits", "1", "3"], ["tanh"], ["gelu", "--bits", "1"]):
        status, out, _ = run(capsys, *arguments, "-o", "own.npz")
        assert status == 0 and "wrote own.npz" in out
    found = store.load("own.npz")
    assert sorted(found) == [("gelu", 1), ("gelu", 3), ("tanh", 3)]
    assert np.allclose(found["tanh", 3].levels, store.levels("tanh", 3).levels)
    assert found["tanh", 3].even and not found["gelu", 3].even


def test_a_file_of_no_other_name(capsys):
    assert run(capsys, "gelu", "--bits", "1", "-o", ".npz")[0] == 0
    assert list(store.load(".npz")) == [("gelu", 1)]


def test_unbiased(capsys):
    _, out, _ = run(capsys, "gelu", "--unbiased", "--bits", "2", "-o", "own.npz")
    assert "gelu, 2 bits, drawn" in out and store.load("own.npz")["gelu", 2].unbiased


@pytest.mark.parametrize("name", ["of_numpy", "of_torch"])
def test_own_functions(capsys, name):
    status, out, _ = run(capsys, f"my_own_functions:{name}", "--bits", "2", "-o", "own.npz")
    assert status == 0 and out.startswith(f"{name}, 2 bits") and "|x|" in out
    table = store.load("own.npz")[name, 2]
    slope = lambda x: (1 - x * x) * np.exp(-x * x / 2)  # noqa: E731
    for left, border, right in zip(table.levels, table.borders, table.levels[1:], strict=False):
        assert slope(border) == pytest.approx((left + right) / 2, abs=1e-5)


def test_a_function_of_operators_alone(capsys):
    status, out, _ = run(capsys, "my_own_functions:of_either", "--bits", "1")
    assert status == 0 and numbers(out.splitlines()[3])[0] == pytest.approx(
        -((2 / np.pi) ** 0.5) / 2, abs=1e-4
    )


@pytest.mark.parametrize(("name", "least"), [("in_place", -1.6), ("in_place_torch", 0.0)])
def test_functions_that_work_in_place(capsys, name, least):
    # Of x² the mean slope below the origin is -2 sqrt(2/pi); of silu it is a little above 0.
    status, out, _ = run(capsys, f"my_own_functions:{name}", "--bits", "1")
    assert status == 0 and numbers(out.splitlines()[3])[0] == pytest.approx(least, abs=0.2)


REFUSED = {
    "relu": "relu is exact; levels are fitted to celu",
    "swiglu": "swiglu keeps its two inputs, and has no codes; levels are fitted to celu",
    "prelu": "prelu is not in the table; levels are fitted to celu",
    "my_own_functions:none": "my_own_functions:none is not to be had: module",
    "no_such_module:f": "no_such_module:f is not to be had: No module",
    "my_own_functions:wrong": "my_own_functions:wrong must make one finite number of each",
    "my_own_functions:detached": "my_own_functions:detached has no gradient: its output is det",
    "my_own_functions:a_list": "my_own_functions:a_list must make one finite number of each",
    "my_own_functions:lookup": "my_own_functions:lookup raises KeyError: 'key'",
    "my_own_functions:np": "my_own_functions:np raises TypeError: 'module' object is not call",
    "my_own_functions:whole": "my_own_functions:whole must make real floating-point numbers; got i",
    "my_own_functions:unreal": "my_own_functions:unreal must make real floating-point numbers; got",
    "my_own_functions:unreal_torch": "my_own_functions:unreal_torch must make real floating-point",
    "my_own_functions:far": "levels can be fitted to a slope that is finite, and below 1e+150,",
    "broken_module:f": "broken_module:f is not to be had: invalid syntax",
}


@pytest.mark.parametrize("function", REFUSED)
@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")
def test_refusals(capsys, function):
    Path("broken_module.py").write_text("f = ")
    status, out, err = run(capsys, function)
    assert status == 2 and not out and err.startswith(f"fxmem quantize: {REFUSED[function]}")


FILES = {
    ("--weight", "none.npy"): "No such file or directory: 'none.npy'",
    ("--weight", "junk.npy"): "junk.npy is no .npy file of real numbers",
    ("--weight", "other.npz"): "other.npz is no .npy file of real numbers",
    ("--weight", "text.npy"): "text.npy is no .npy file of real numbers",
    ("--weight", "empty.npy"): "empty.npy: no input is a finite number",
    ("--weight", "nan.npy"): "nan.npy: no input is a finite number",
    ("--weight", "wide.npy"): "wide.npy: no 256 bins can be told apart from -1.7e+308 to",
    ("--weight", "near.npy"): "near.npy: no 256 bins can be told apart from 1e+17 to 1e+17",
    ("-o", "junk.npz"): "junk.npz is no .npz file of tables of levels",
    ("-o", "nan.npz"): "nan.npz is no .npz file of tables of levels",
    ("-o", "other.npz"): "other.npz has no tables of levels, and is left as it is",
    ("-o", "own.txt"): "own.txt must end in .npz",
    ("-o", "folder.npz"): "Is a directory: 'folder.npz'",
    ("-o", "none/own.npz"): "No such file or directory: 'none/own.npz'",
    ("--plot", "own.foo"): "Format 'foo' is not supported",
    ("--plot", "own"): "Format '' is not supported: own must end in one of .",
    ("--plot", "none/own.png"): "No such file or directory: ",
}


@pytest.mark.parametrize("arguments", FILES, ids=" ".join)
def test_files_that_do_not_serve(capsys, arguments):
    Path("folder.npz").mkdir()
    inputs = {"wide": [-1.7e308, 1.7e308], "near": [1e17, 1e17]}
    inputs |= {"empty": [], "nan": [np.nan], "text": ["a"]}
    for path, numbers in inputs.items():
        np.save(f"{path}.npy", np.array(numbers))
    np.savez("other.npz", layer=np.ones(3))
    Path("nan.npz").write_bytes(Path("nan.npy").read_bytes())
    for path in ("junk.npy", "junk.npz"):
        Path(path).write_text("junk")
    before = sorted(Path().iterdir())
    status, out, err = run(capsys, "gelu", "--bits", "1", *arguments)
    assert not out and sorted(Path().iterdir()) == before  # refused before anything is fitted
    assert status == 2 and err.startswith("fxmem quantize: ") and FILES[arguments] in err
    assert err.count("\n") == 1 and list(np.load("other.npz")) == ["layer"]


@pytest.mark.parametrize("path", ["none/all.png", "all.foo"])
def test_a_picture_that_cannot_be_written(monkeypatch, capsys, path):
    monkeypatch.setattr(gallery, "TABLE", {"relu": TABLE["relu"]})
    assert commands.main(["gallery", path]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fxmem gallery: ") and err.count("\n") == 1


def test_pictures(capsys):
    from matplotlib.image import imread

    status, out, _ = run(capsys, "silu", "--bits", "1", "2", "--plot", "one.png")
    assert status == 0 and "wrote one.png" in out and imread("one.png").shape[:2] == (675, 1200)
    run(capsys, "silu", "--unbiased", "--plot", "drawn.png")
    rows = [TABLE[name] for name in ("relu6", "hardswish", "tanh")]
    gallery.draw(rows, "three.png")
    picture = imread("three.png")
    assert picture.shape[1] == 1800 and len(np.unique(picture.reshape(-1, 4), axis=0)) > 50


def test_every_row_can_be_drawn(monkeypatch, tmp_path, capsys):
    drawn = []
    monkeypatch.setattr(gallery, "draw", lambda rows, path: drawn.extend(rows))
    assert commands.main(["gallery", "all.png"]) == 0
    assert [row.name for row in drawn] == [name for name, row in TABLE.items() if not row.gate]
    points = points_to(4.5, gallery.CENTRES)
    for row in drawn:
        assert gallery.output_errors(row, points).max() <= 2e-4, row.name


def test_help_names_the_commands(capsys):
    assert commands.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "quantize" in text and "gallery" in text
    with pytest.raises(SystemExit):
        quantize.parse(["gelu", "--bits", "9"])
