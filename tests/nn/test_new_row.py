"""A new activation costs one row: all the rest of it follows.

The native library knows the rows that it was built with, so the operators are the reference ones,
in a process of its own; `python -m fxmem.activations.codegen` and a build make the native ones.
"""

import os
import subprocess
import sys

import pytest
import torch

from fxmem import functional
from fxmem.activations.table import TABLE, Activation, x
from fxmem.ops import NATIVE

SCRIPT = """
import copy, pickle
import numpy as np, sympy as sp, torch
from fxmem.activations.table import TABLE, Activation, x

width = sp.Symbol("width", real=True)
row = Activation("bump_relu", x * sp.exp(-(x**2) / width), parameters=(("width", 2.0),))
TABLE[row.name] = row

import fxmem
from fxmem import functional, nn
from fxmem.activations import codegen, store
from fxmem.commands.source import source
from fxmem.measure import kept

def plain(t, width=2.0):
    return t * torch.exp(-t * t / width)

def slopes(function, *args, **options):
    leaf = X.clone().requires_grad_()
    function(leaf, *args, **options).sum().backward()
    return leaf.grad

X = torch.linspace(-4, 4, 1001, dtype=torch.float64)
exact = slopes(plain)

# The operator and its function, with a table of its own, codes that are drawn, and documentation.
assert torch.allclose(functional.bump_relu(X), plain(X))
assert torch.allclose(functional.bump_relu(X, 3.0), plain(X, 3.0))
normal = torch.exp(-X * X / 2) / torch.exp(-X * X / 2).sum()
for bits in (1, 3, 6):
    error = (slopes(functional.bump_relu, bits=bits) - exact).square() @ normal
    assert torch.isclose(error, torch.tensor(store.levels(row, bits).error).double(), rtol=0.1)
assert len(slopes(functional.bump_relu, unbiased=True).unique()) == 8
assert "bump_relu(x) = x*exp(-x**2/width)" in functional.bump_relu.__doc__
x32 = X.float().requires_grad_()
assert kept(lambda: functional.bump_relu(x32)).nbytes == -(-3 * 1001 // 8)
try:
    functional.bump_relu(X, keep="output")  # it rises, falls and rises again: three branches
except ValueError as error:
    assert "the output of bump_relu, width=2 does not determine its slope" in str(error)
else:
    raise AssertionError("no refusal")

# The module.
module = nn.BumpReLU(width=3.0, bits=2)
assert repr(module) == "BumpReLU(width=3.0, bits=2)" and torch.allclose(module(X), plain(X, 3.0))
twin = pickle.loads(pickle.dumps(copy.deepcopy(module)))
assert repr(twin) == repr(module) and "BumpReLU" in dir(nn)

# The rule: it is recognised as people write it.
class Net(torch.nn.Module):
    def forward(self, t):
        return t * torch.exp(t.square() / -2)

gm = torch.fx.symbolic_trace(Net())
found = fxmem.transform(gm, {"rules": {"quantized_gradient": {"bits": 2}}})
(site,) = [node for node in found.graph.nodes if node.target is torch.ops.fxmem.few_bit.default]
assert site.args[1:3] == ("bump_relu", [2.0]), site.args
assert torch.equal(slopes(found), slopes(functional.bump_relu, bits=2))

# The levels, the command, the C++ functor.
assert store.levels("bump_relu", 2).bits == 2 and source("bump_relu").even
assert "struct BumpRelu" in codegen.header()
"""


def test_one_row_is_enough():
    environment = {**os.environ, "FXMEM_NATIVE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif("cpu" not in NATIVE, reason="the reference operators know every row")
def test_native_operators_say_what_they_lack(monkeypatch):
    monkeypatch.setitem(TABLE, "cube", Activation("cube", x**3))
    with pytest.raises(RuntimeError, match="function must be one of the table's; got cube"):
        functional.cube(torch.ones(3))
    monkeypatch.delattr(functional, "cube")
