"""The commands on activations: what they print, write, draw and refuse."""

import re

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


REFUSED = {
    "relu": "relu is exact; levels are fitted to celu",
    "swiglu": "swiglu is exact; levels are fitted to celu",
    "prelu": "prelu is not in the table; levels are fitted to celu",
    "my_own_functions:none": "my_own_functions:none is not to be had: module",
    "no_such_module:f": "no_such_module:f is not to be had: No module",
    "my_own_functions:wrong": "my_own_functions:wrong must make one finite number of each",
}


@pytest.mark.parametrize("function", REFUSED)
def test_refusals(capsys, function):
    status, out, err = run(capsys, function)
    assert status == 2 and not out and err.startswith(f"fxmem quantize: {REFUSED[function]}")


def test_a_missing_file(capsys):
    status, _, err = run(capsys, "gelu", "--weight", "none.npy")
    assert status == 2 and "none.npy" in err


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
