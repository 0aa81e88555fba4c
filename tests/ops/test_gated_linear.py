"""fxmem::gated_linear: torch's own value, true gradients, and nothing kept or computed in vain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from activation_samples import DTYPES
from activations.exact import CASES
from samples import LAYOUTS
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode

from fxmem import ops
from fxmem.measure import kept

from .test_ops_samples import DEVICES

ROOT = Path(__file__).parents[2]
SHAPES = ((16,), (5, 16), (2, 3, 16), (2, 1, 3, 16), (0, 16), (2, 0, 16), (4, 0))
operator = torch.ops.fxmem.gated_linear.default
weight_backward = torch.ops.fxmem.gated_linear_weight_backward.default


def drawn(*shape, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()


def operands(shape, out=8, bias=True, **options):
    """gate, up, weight and bias."""
    gate, up = drawn(*shape, **options), drawn(*shape, **options).detach().mul(-0.7)
    weight = drawn(out, shape[-1], **options)
    return gate, up.requires_grad_(), weight, drawn(out, **options) if bias else None


def plain(gate, up, weight, bias):
    return F.linear(F.silu(gate) * up, weight, bias)


def gated(gate, up, weight, bias):
    return ops.gated_linear(gate, up, weight, bias, "silu")


def gradients(function, inputs, grad):
    y = function(*inputs)
    wanted = [i for i in inputs if i is not None and i.requires_grad]
    return y, torch.autograd.grad(y, wanted, grad.to(y))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_of_any_rank(shape, bias, device):
    inputs = operands(shape, bias=bias, dtype=torch.float64, device=device)
    grad = drawn(*shape[:-1], 8, device=device).detach()
    (y, found), (wanted, exact) = (gradients(f, inputs, grad) for f in (gated, plain))
    assert y.stride() == wanted.stride()
    torch.testing.assert_close((y, found), (wanted, exact))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_true_up_to_rounding(dtype, device):
    inputs = operands((64, 16), dtype=dtype, device=device)
    grad = drawn(64, 8, device=device).detach().to(dtype)
    y, found = gradients(gated, inputs, grad)
    # The matrix product is torch's own.
    pair = ops.gated(*inputs[:2], "silu")
    assert torch.equal(y, F.linear(pair, *inputs[2:]))
    wide = [i.detach().double().requires_grad_() for i in inputs]
    _, exact = gradients(plain, wide, grad)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= 4 * max(torch.finfo(dtype).eps, 1e-15) * b.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_laid_out_otherwise(layout, device):
    view = LAYOUTS[layout](torch.randn(12, 10, 6, 4, device=device).double())
    gate, weight = view.detach().requires_grad_(), drawn(5, view.shape[-1], dtype=torch.float64)
    up = torch.randn(view.shape[::-1], device=device).double().permute(*range(view.dim())[::-1])
    inputs = gate, up.requires_grad_(), weight.to(device), None
    strange = [torch.ones((), device=device).expand(*view.shape[:-1], 5)]
    strange += [torch.randn(5, *view.shape[:-1], device=device).movedim(0, -1)]
    for grad in strange:
        (y, found), (wanted, exact) = (gradients(f, inputs, grad) for f in (gated, plain))
        assert y.stride() == wanted.stride()
        torch.testing.assert_close((y, found), (wanted, exact))
        library.opcheck(weight_backward, (grad.double(), view, up.detach(), "silu", []))
    library.opcheck(operator, (*inputs, "silu", []))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].name}{case[1]}")
def test_gradcheck(case):
    row, values = case
    gate = torch.linspace(-3.03, 3.14, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    _, up, weight, bias = operands((3, 4), out=2, dtype=torch.float64)
    inputs = gate, up, weight, bias
    assert torch.autograd.gradcheck(lambda *a: ops.gated_linear(*a, row.name, values), inputs)


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


NEEDED = {
    "all": ((0, 1, 2, 3), {"mm", "gated_backward", "gated_linear_weight_backward", "sum"}),
    "frozen weight": ((0, 1, 3), {"mm", "gated_backward", "sum"}),
    "weight alone": ((2,), {"gated_linear_weight_backward"}),
    "gate alone": ((0,), {"mm", "gated_backward"}),
    "bias alone": ((3,), {"sum"}),
}


@pytest.mark.parametrize("case", NEEDED)
def test_only_what_is_wanted_is_computed(case):
    wanted, names = NEEDED[case]
    inputs = operands((6, 16))
    for i in {0, 1, 2, 3} - set(wanted):
        inputs[i].requires_grad_(False)
    y = gated(*inputs)
    grad = torch.ones_like(y)
    with Calls() as calls:
        found = torch.autograd.grad(y, [inputs[i] for i in wanted], grad)
    arithmetic = {"mm", "sum", "gated_backward", "gated_linear_weight_backward", "gated"}
    assert arithmetic.intersection(calls.names) == names
    exact = torch.autograd.grad(plain(*inputs).sum(), [inputs[i] for i in wanted])
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("frozen", [False, True])
def test_gate_and_factor_alone_are_kept(frozen):
    leaf, weight = drawn(128, 64), drawn(64, 64).detach().requires_grad_(not frozen)

    def bytes_of(function):
        return kept(lambda: function(leaf.clone(), leaf.clone(), weight, None)).nbytes

    # Eager keeps the activation as well, and for the gradient of the weight the product.
    size = 128 * 64 * 4
    assert (bytes_of(gated), bytes_of(plain)) == (2 * size, (3 if frozen else 4) * size)


def under_autocast(function):
    def call(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return function(*inputs)

    return call


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("gates", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", [lambda f: f, compiled], ids=["eager", "aot_eager"])
def test_autocast_casts_what_it_casts_of_a_linear_layer(how, gates):
    gate, up, weight, bias = operands((64, 16))
    inputs = *(t.detach().to(gates).requires_grad_() for t in (gate, up)), weight, bias
    grad = drawn(64, 8).detach()
    y, found = gradients(how(under_autocast(gated)), inputs, grad)
    wanted, exact = gradients(under_autocast(plain), inputs, grad)
    assert y.dtype == wanted.dtype == torch.bfloat16
    for a, b in zip((y, *found), (wanted, *exact), strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= 2 * torch.finfo(torch.bfloat16).eps * b.norm()


def test_a_weight_in_float64_stays_so_under_autocast():
    assert under_autocast(gated)(*operands((6, 16), dtype=torch.float64)).dtype == torch.float64


def test_refused_in_a_sentence():
    gate, up, weight, bias = operands((6, 16))
    sentence = r"fxmem::gated_linear: weight must be a matrix; got \[16\]"
    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match=sentence):
            gated(gate.to(device), up.to(device), weight[0].to(device), None)
    with pytest.raises(RuntimeError, match="up must be of the shape and dtype of gate; got"):
        gated(gate, up[:3], weight, bias)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_second_derivatives_are_refused_in_a_sentence(wanted):
    inputs = operands((6, 16))
    grad = torch.ones(6, 8, requires_grad=True)
    for given in (None, grad):
        y = gated(*inputs)
        (first,) = torch.autograd.grad(
            y, inputs[wanted], given if given is not None else y * 0 + 1, create_graph=True
        )
        with pytest.raises(RuntimeError, match="backward has no derivative: it is itself a backw"):
            first.sum().backward()


def test_without_the_library():
    script = """
import sys; sys.path.insert(0, "tests")
from ops.test_gated_linear import gated, gradients, operands, plain, torch
inputs, grad = operands((6, 16)), torch.randn(6, 8)
torch.testing.assert_close(gradients(gated, inputs, grad), gradients(plain, inputs, grad))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FXMEM_NATIVE": "0"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
