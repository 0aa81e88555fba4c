"""What is divided to the last bit on a CPU is so on CUDA, where a number divides by a product."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fxmem.integer import Absmax
from fxmem.integer.operand import TERMS, quantized
from fxmem.ops.integer import absmax
from fxmem.quantizers import dorefa

from .samples import QUANTIZERS, inputs

aten = torch.ops.aten
PRODUCTS = {
    aten.div.Tensor: aten.mul.Tensor,
    aten.div_.Tensor: aten.mul_.Tensor,
    aten.div.out: aten.mul.out,
}


class AsCuda(TorchDispatchMode):
    """A quotient by a Python number is a product with its reciprocal (BinaryDivTrueKernel.cu)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS and not torch.is_tensor(args[1]):
            func, args = PRODUCTS[func], (args[0], 1 / args[0].new_full((), args[1]))
        return func(*args, **(kwargs or {}))


def results(quantizer, x):
    """What is made of a tensor: its value, what was stored of it, and the terms of a product."""
    torch.manual_seed(0)
    yield quantizer.value(x)
    if quantizer.grid != "fixed":  # which only multiplies, and refuses what does not fit
        yield quantizer.pack(x).values()
    if quantizer.grid in TERMS and quantizer.bits <= 8:
        yield from (t for term in quantized(x, quantizer) for t in (term.codes, term.scale))


@pytest.mark.parametrize(
    "quantizer",
    [*QUANTIZERS, dorefa.Gradient(6), Absmax(), Absmax(5, "row", stochastic=True)],
    ids=str,
)
def test_bits_do_not_depend_on_how_a_device_divides(quantizer):
    for name, x in inputs():
        wanted = list(results(quantizer, torch.from_numpy(x)))
        with AsCuda():
            found = list(results(quantizer, torch.from_numpy(x)))
        assert all(map(torch.equal, found, wanted)), name


def test_nor_does_the_operator_that_serves_without_a_kernel():
    x = torch.randn(64, 33)
    wanted = absmax._reference(x, None, False, 127)
    with AsCuda():
        assert all(map(torch.equal, absmax._reference(x, None, False, 127), wanted))
