"""Borders beyond the ends that files have had: fitted to far inputs, kept, written and read."""

import numpy as np
import pytest
import torch
from torch import nn

import fxmem
from fxmem import __main__ as commands
from fxmem import functional
from fxmem.activations import given
from fxmem.activations import store as files
from fxmem.activations.levels import Levels

OUTLIERS = torch.tensor([250.0, 300.0, 400.0])


def far_inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, generator=generator)
    return {"outliers": torch.cat([x, OUTLIERS]), "wide": x * 60, "narrower": x * 40}


@pytest.mark.parametrize(
    ("kind", "inputs"), [("SquaredReLU", "outliers"), ("SquaredReLU", "wide"), ("Exp", "narrower")]
)
def test_calibrated_far_out(kind, inputs):
    module, x = getattr(fxmem.nn, kind)(bits=3), far_inputs()[inputs]
    (site,) = fxmem.calibrate(nn.Sequential(module), [x]).sites
    leaf = x.double().requires_grad_()
    module(leaf).sum().backward()
    assert site.own < site.normal and "own levels" in repr(module)
    assert max(module.coding().borders) > files.END and len(leaf.grad.unique()) > 1


@pytest.mark.parametrize("borders", [[-3e5, 0.5, 1.0], [-1.0, 2.0, 250.0], [101.0, 102.0, 1e4]])
@pytest.mark.parametrize("even", [False, True])
def test_ends_lie_beyond(borders, even, tmp_path):
    borders = np.sort(np.abs(borders)) if even else np.array(borders)
    table = Levels(borders, np.arange(4.0), 0.0, even)
    ends = files.with_ends(table)
    assert np.all(np.diff(ends) > 0) and ends[-1] >= files.END and ends[0] in (0.0, -ends[-1])
    own = functional.tables.Store()
    own.add("squared_relu", 2, table)
    own.save(tmp_path / "own.npz")
    read = functional.tables.Store().load(tmp_path / "own.npz")
    again = given.table_of(*read.get("squared_relu", 2, dtype=torch.float64))
    np.testing.assert_array_equal(again.borders, borders)
    assert again.even == even


def test_the_commands_file_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", far_inputs()["wide"].numpy() * 5)
    arguments = ["quantize", "squared_relu", "--weight", "w.npy", "-o", "own.npz"]
    assert commands.main(arguments) == 0
    borders, levels = functional.tables.Store().load("own.npz").get("squared_relu", 3)
    assert (borders.diff() > 0).all() and borders[-2] > files.END
    x = torch.ones(3, requires_grad=True)
    functional.squared_relu(x, borders=borders, levels=levels).sum().backward()
    assert torch.isfinite(x.grad).all()
