"""The demo: its text, its command line, and all of it on a model of a few thousand parameters."""

import importlib.util
import json
from dataclasses import asdict, replace
from itertools import islice

import pytest
import torch

from fxmem import __main__ as commands
from fxmem import measure
from fxmem.demo import command, depth
from fxmem.demo.task import Task, new_model, read_text
from fxmem.demo.training import train
from fxmem.demo.ways import WAYS, Way, inductor

MINI = Task(layers=1, width=64, heads=2, tokens=64, batch=4, steps=3, judged=1)

# Torch warns of itself when Inductor is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@pytest.fixture
def sources(tmp_path):
    """Twenty files of one letter each, and some that must not be read."""
    for i in range(20):
        (tmp_path / f"m{i:02}.py").write_text(chr(ord("a") + i) * 100)
    for elsewhere in ("site-packages", "test"):
        (tmp_path / elsewhere).mkdir()
        (tmp_path / elsewhere / "other.py").write_text("Z" * 100)
    return tmp_path


def test_each_tenth_file_is_held_out(sources):
    text = read_text(sources)
    assert set(bytes(text.held_out)) == set(b"jt\n")
    assert set(bytes(text.train)) == set(b"abcdefghi" + b"klmnopqrs" + b"\n")


def test_too_few_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"at least 10 .* below {tmp_path}"):
        read_text(tmp_path)


def test_batches_follow_from_their_seed(sources):
    text = read_text(sources)

    def first(seed, **kinds):
        return torch.stack(list(islice(text.batches(MINI, seed, **kinds), 3)))

    assert first(0).shape == (3, MINI.batch, MINI.tokens)
    assert first(0).dtype == torch.int64
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert set(first(0, held_out=True).unique().tolist()) <= set(b"jt\n")


def test_settings_reach_their_own_code_alone():
    # Equal lines of Python: Dynamo must not run what it compiled for another way.
    def kept(way):
        layer, x = torch.nn.Linear(64, 64), torch.randn(64, 64)
        compiled = way.compile(lambda x: torch.nn.functional.gelu(layer(x)) @ layer.weight)
        return measure.kept(lambda: compiled(x)).nbytes

    banned = kept(inductor())
    assert kept(inductor(ban_recompute_materialized_backward=False)) < banned
    assert kept(inductor()) == banned


def test_training_is_the_same_twice_and_learns(sources):
    text = read_text(sources)
    start = new_model(MINI)
    seen = []
    first, again = (train(start, Way(), MINI, text, seen.append) for _ in range(2))
    assert first.losses == again.losses == seen[: MINI.steps]
    assert first.held_out == again.held_out
    assert first.losses[-1] < first.losses[0]
    assert first.variant.module.training


@pytest.mark.slow
def test_mini_demo(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK", asdict(MINI))
    monkeypatch.setattr(command, "read_text", lambda: read_text(sources))
    assert commands.main(["demo", "--quick", "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for name in WAYS:
        assert name in out
    assert "different masks" in out
    assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG")
    ways = json.loads((tmp_path / "out/demo.json").read_text())["ways"]
    assert list(ways) == list(WAYS)
    assert ways["Inductor"]["times"]["ratio"] == 1
    for way in ways.values():
        assert len(way["losses"]) == 2
        assert way["peak"] > way["kept"] > 0
    # Inductor and the exact preset draw the same masks; equal up to rounding of fp32 sums.
    assert ways["fxmem exact"]["losses"] == pytest.approx(ways["Inductor"]["losses"], rel=1e-5)
    assert ways["fxmem compact"]["kept"] < ways["fxmem exact"]["kept"] < ways["Inductor"]["kept"]


def test_mini_demo_of_depth(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(depth, "TASK", replace(MINI, layers=0))
    monkeypatch.setattr(depth, "DEPTHS", (2, 8))
    monkeypatch.setattr(command, "read_text", lambda: read_text(sources))
    out = str(tmp_path / "out")
    assert commands.main(["demo", "--model", "reversible", "--steps", "2", "--out", out]) == 0
    assert "reversible, fused step" in capsys.readouterr().out
    assert (tmp_path / "out/reversible.png").read_bytes().startswith(b"\x89PNG")
    shallow, deep = json.loads((tmp_path / "out/reversible.json").read_text())["depths"].values()
    assert len(deep["losses"]) == 2
    assert deep["everything kept"]["kept"] > 2 * shallow["everything kept"]["kept"]
    for way in ("reversible", "reversible, fused step"):
        assert deep[way]["kept"] == pytest.approx(shallow[way]["kept"], rel=0.01)
    fused = "reversible, fused step"
    assert deep[fused]["peak"] == pytest.approx(shallow[fused]["peak"], rel=0.05)


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert commands.main(["demo"]) == 2
    assert "pip install transformers matplotlib tqdm" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(command.MODELS, "gpt", lambda args: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / "demo.json").mkdir(parents=True)
    for out in ("file", "file/out", "full"):
        assert commands.main(["demo", "--out", str(tmp_path / out)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("fxmem demo: [Errno ") and err.count("\n") == 1


def test_impossible_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        commands.main(["demo", "--steps", "0"])
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err


def test_commands_are_listed_and_unknown_ones_refused(capsys):
    assert commands.main([]) == 0
    assert "demo" in capsys.readouterr().out
    assert commands.main(["dmeo"]) == 2
    assert "unknown command 'dmeo'" in capsys.readouterr().err
